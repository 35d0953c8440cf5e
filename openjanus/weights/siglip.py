"""SigLIP's vision encoder in the format of transformers: SigLIP, and SigLIP 2 at fixed resolution (google/siglip-*).

    config.json                   of the whole model, with a vision_config, or of the vision encoder by itself
    model.safetensors | shards    the text tower and the pooling head are not read
    preprocessor_config.json      optional

Source: transformers, models/siglip/configuration_siglip.py, modeling_siglip.py.
"""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from openjanus.config import ConfigError
from openjanus.model.vision_encoder import VisionEncoder, VisionEncoderConfig
from openjanus.processing.image import PixelConfig
from openjanus.weights.body import ignore_indifferent
from openjanus.weights.fields import ConfigFiles
from openjanus.weights.foreign import TANH_GELU, three
from openjanus.weights.names import siglip_names
from openjanus.weights.tensors import TensorFiles, read_renamed

WHOLE, ENCODER = "siglip", "siglip_vision_model"
DROPPED = ("*vision_model.head.*", "head.*", "text_model.*", "logit_scale", "logit_bias", "*.position_ids")


def read_config(folder: Path) -> VisionEncoderConfig:
    """The config of a folder's vision encoder; the weights may be missing.

    Raises ValueError for unsupported encoders, such as SigLIP 2's variable resolution (NaFlex).
    """
    files = ConfigFiles(folder, remedy="correct it, or remove it from the file")
    c = files.open("config.json")
    if c.data.get("model_type") == WHOLE:
        c.ignore("text_config", "model_type", "tie_word_embeddings")
        ignore_indifferent(c)
        c = c.inner("vision_config", {})
    c.expect("model_type", ENCODER)
    c.expect("num_channels", 3)
    c.expect("layer_norm_eps", 1e-6)
    c.expect("hidden_act", TANH_GELU, "gelu")
    c.ignore("vision_use_head")
    try:
        config = VisionEncoderConfig(
            image_size_px=c.size("image_size", 224),
            patch_px=c.size("patch_size", 16),
            width=c.size("hidden_size", 768),
            num_layers=c.size("num_hidden_layers", 12),
            num_heads=c.size("num_attention_heads", 12),
            mlp_width=c.size("intermediate_size", 3072),
            tanh_gelu=c.take("hidden_act", str, TANH_GELU) == TANH_GELU,
        )
    except ConfigError as error:
        raise ValueError(f"{c.file}: {error}") from None
    ignore_indifferent(c)
    files.check()
    return config


def read_pixels(folder: Path, size_px: int) -> PixelConfig:
    """The encoder's scaling of pixels. Pictures are padded to a square on grey, as in Janus."""
    c = ConfigFiles(folder).open("preprocessor_config.json")
    default = PixelConfig(size_px)
    if not c.take("do_normalize", bool, True):
        return PixelConfig(size_px, mean=(0.0,) * 3, std=(1.0,) * 3)
    mean, std = three(c, "image_mean", default.mean, float), three(c, "image_std", default.std, float)
    return PixelConfig(size_px, mean=mean, std=std)


def read_tensors(folder: Path, encoder: VisionEncoder) -> Iterator[tuple[str, Tensor]]:
    """An encoder's tensors by openjanus's names, without `understanding.encoder.`."""
    files = TensorFiles(folder)
    prefix = "" if any(name.startswith("vision_model.") for name in files.shapes) else "vision_model."

    def names_of(name: str) -> tuple[str, ...]:
        return tuple(theirs.removeprefix(prefix) for theirs in siglip_names(name))

    shapes = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    yield from read_renamed(files, shapes, names_of, DROPPED)
