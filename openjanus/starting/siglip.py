"""SigLIP's vision encoder in the format of transformers: SigLIP, and SigLIP 2 at fixed resolution (google/siglip-*).

    config.json                   of the whole model, with a vision_config, or of the vision encoder by itself
    model.safetensors | shards    the text tower and the pooling head are not read
    preprocessor_config.json      optional

Source: transformers, models/siglip/configuration_siglip.py, modeling_siglip.py.
"""

from pathlib import Path

from openjanus.config import ConfigError
from openjanus.model.vision_encoder import VisionEncoder, VisionEncoderConfig
from openjanus.processing.image import PixelConfig
from openjanus.weights import tensors
from openjanus.weights.body import ignore_indifferent
from openjanus.weights.fields import ConfigFiles
from openjanus.weights.foreign import read_vision, three
from openjanus.weights.names import siglip_names

# What counts where a key is absent: SigLIP's base size.
DEFAULT = VisionEncoderConfig(224, 16, 768, 12, 12, 3072, tanh_gelu=True)
WHOLE, ENCODER = "siglip", "siglip_vision_model"
DROPPED = ("*vision_model.head.*", "head.*", "text_model.*", "logit_scale", "logit_bias", "*.position_ids")


def read_config(folder: Path) -> VisionEncoderConfig:
    """The config of a folder's vision encoder; the weights may be missing.

    Raises ValueError for unsupported encoders, such as SigLIP 2's variable resolution (NaFlex).
    """
    files = ConfigFiles(folder, remedy="correct it, or remove it from the file")
    whole = c = files.open("config.json")
    if whole.data.get("model_type") == WHOLE:
        whole.ignore("text_config")
        c = whole.inner("vision_config", {})
    c.expect("model_type", ENCODER)
    c.ignore("vision_use_head")
    try:
        config = read_vision(c, DEFAULT, DEFAULT.mlp_width)
    except ConfigError as error:
        raise ValueError(f"{c.file}: {error}") from None
    ignore_indifferent(whole)
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


def fill(encoder: VisionEncoder, folder: Path) -> None:
    """Gives an encoder the weights of a folder."""
    files = tensors.TensorFiles(folder)
    prefix = "" if any(name.startswith("vision_model.") for name in files.shapes) else "vision_model."

    def names_of(name: str) -> tuple[str, ...]:
        return tuple(theirs.removeprefix(prefix) for theirs in siglip_names(name))

    tensors.fill(encoder, files, names_of, DROPPED)
