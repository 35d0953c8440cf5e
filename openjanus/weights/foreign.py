"""Common code of the official and the transformers format: preprocessor, roles of a chat, tokenizer files, and models
that they cannot express."""

import json
import warnings
from pathlib import Path
from typing import Any, Literal

from openjanus.model.image_tokenizer import ImageTokenizerConfig
from openjanus.model.siglip_eye import SigLIPEyeConfig
from openjanus.model.vision_encoder import VisionEncoderConfig
from openjanus.model.vq_eye import VQEyeConfig
from openjanus.processing.image import PixelConfig
from openjanus.processing.processor import ROLES
from openjanus.processing.text import BOS, EOS, IMAGE_PLACEHOLDER, PAD, SPECIAL_TOKENS, TextTokenizer
from openjanus.weights.config import CheckpointConfig
from openjanus.weights.fields import Fields

TANH_GELU = "gelu_pytorch_tanh"
# Config fields that the transformers format can express and the official one cannot.
TRANSFORMERS_HAS = ("language_model.qk_norm", "understanding.encoder.tanh_gelu")
# Both preprocessors' own defaults; Janus's files set 0.5.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def read_pixels(c: Fields, size_px: int, as_configured: bool) -> PixelConfig:
    """The preprocessor's settings.

    The first Janus-1.3B files switch normalisation off by mistake: the corrected value is used, with a warning, unless
    `as_configured`.
    """
    default = PixelConfig()
    mean, std = (CLIP_MEAN, CLIP_STD) if c.data else (default.mean, default.std)
    mean, std = three(c, "image_mean", mean, float), three(c, "image_std", std, float)
    background = three(c, "background_color", tuple(int(x * 255) for x in mean), int)
    normalise = c.take("do_normalize", bool, True)
    if not normalise and not as_configured:
        warnings.warn(
            f"{c.file}: do_normalize is false, a known mistake of the first Janus-1.3B files (pictures come out pale); "
            "taken as true. Load with as_configured to follow the file.",
            stacklevel=2,
        )
        normalise = True
    if not normalise:
        mean, std = (0.0,) * 3, (1.0,) * 3
    c.expect("size", size_px, {"height": size_px, "width": size_px})
    c.expect("image_size", size_px)
    for key in ("do_resize", "do_rescale", "do_pad", "do_convert_rgb"):
        c.expect(key, True)
    c.expect("resample", 3)
    if abs(c.take("rescale_factor", float, 1 / 255) * 255 - 1) > 1e-6:
        c.expect("rescale_factor", 1 / 255)
    min_side = c.size("min_size", default.min_side_px)
    c.ignore(
        "image_processor_type", "processor_class", "auto_map", "data_format", "input_data_format", "return_tensors",
        "crop_size", "do_center_crop", "device", "disable_grouping", "pad_size", "default_to_square",
        "image_seq_length", "_*",
    )  # fmt: skip
    return PixelConfig(size_px, min_side, background, mean, std)


def read_vision(c: Fields, default: VisionEncoderConfig, mlp_width: int) -> VisionEncoderConfig:
    """A vision encoder in the words of transformers' SigLIP. What is absent is as in `default`, and `mlp_width`."""
    c.expect("num_channels", 3)
    c.expect("layer_norm_eps", 1e-6)
    c.expect("hidden_act", "gelu", TANH_GELU)
    return VisionEncoderConfig(
        image_size_px=c.size("image_size", default.image_size_px),
        patch_px=c.size("patch_size", default.patch_px),
        width=c.size("hidden_size", default.width),
        num_layers=c.size("num_hidden_layers", default.num_layers),
        num_heads=c.size("num_attention_heads", default.num_heads),
        mlp_width=c.size("intermediate_size", mlp_width),
        tanh_gelu=c.take("hidden_act", str, TANH_GELU if default.tanh_gelu else "gelu") == TANH_GELU,
    )


def three(c: Fields, key: str, default: tuple[Any, ...], kind: type) -> tuple[Any, Any, Any]:
    """A list of three numbers, one for each colour."""
    values = c.take(key, list, list(default))
    if len(values) != 3 or not all(isinstance(x, (int, kind)) and not isinstance(x, bool) for x in values):
        raise ValueError(f"{c.file}: {c.path(key)} is {values!r}, expected three numbers")
    red, green, blue = map(kind, values)
    return red, green, blue


def pixel_settings(p: PixelConfig) -> dict[str, Any]:
    """The common keys of both preprocessor files."""
    return {
        "background_color": list(p.background),
        "do_normalize": True,
        "image_mean": list(p.mean),
        "image_std": list(p.std),
        "min_size": p.min_side_px,
        "rescale_factor": 1 / 255,
    }


def has_role_tokens(text: TextTokenizer) -> bool:
    """Whether the text tokenizer is Janus-Pro's, with special tokens for the roles of a chat."""
    return all(text.special_id(role) is not None for role in ROLES["deepseek"].values())


def choose_template(folder: Path, text: TextTokenizer, tokens: bool) -> Literal["deepseek", "deepseek_old"]:
    """The chat template of a folder. tokens: whether its files name the roles by Janus-Pro's tokens, or by words.

    Until January 2025 `deepseek` was the official name of the template with words, and transformers' converter writes
    the tokens for Janus-1.3B, too. If the tokenizer lacks the tokens, the words are used, with a warning.
    """
    if tokens and not has_role_tokens(text):
        warnings.warn(
            f"{folder}: its chat template names the roles <|User|> and <|Assistant|>, tokens that its tokenizer lacks; "
            "taking the words of Janus-1.3B, User and Assistant, which such a model was trained with",
            stacklevel=2,
        )
        return "deepseek_old"
    return "deepseek" if tokens else "deepseek_old"


def plain_eyes(c: CheckpointConfig, what: str, more: tuple[str, ...] = ()) -> tuple[VisionEncoderConfig, VQEyeConfig]:
    """The two eyes of a checkpoint, if a foreign format can express it.

    more: fields that the format can express beyond the official one.
    Raises ValueError that names all parts that the format cannot express.
    """
    lm, looking, drawing = c.model.language_model, c.model.understanding, c.model.generation
    instead = "use openjanus's own format (--format openjanus), which openjanus and its plugin for vLLM read"
    signal = c.model.signal
    if not isinstance(looking, SigLIPEyeConfig) or type(drawing) is not VQEyeConfig or signal is not None:
        eyes = " and ".join(type(eye).__name__ for eye in (looking, drawing, signal) if eye is not None)
        raise ValueError(f"the {what} format cannot express these eyes, {eyes}: {instead}")
    vision, vq, plain = looking.encoder, drawing.tokenizer, ImageTokenizerConfig()
    wrong = [
        f"generation.tokenizer.{name}={getattr(vq, name)}"
        for name in ("stem_px", "num_groups", "local_encoder")
        if getattr(vq, name) != getattr(plain, name)
    ]
    if vq.image_size_px != vision.image_size_px:
        wrong.append(
            f"generation.tokenizer.image_size_px={vq.image_size_px} beside {vision.image_size_px} of "
            "understanding.encoder"
        )
    wrong += [f"understanding.encoder.{name}" for name in ("pooling_head", "tanh_gelu") if getattr(vision, name)]
    wrong += [f"language_model.{name}" for name in ("qkv_bias", "qk_norm") if getattr(lm, name)]
    if c.processor.pictures_first:  # without it, questions before pictures are answered worse
        wrong.append("processor.pictures_first")
    if c.processor.tiles is not None:
        wrong.append("processor.tiles")
    ours = PixelConfig(c.processor.pixels.size_px)
    names = ("fit", "resample")
    wrong += [f"processor.pixels.{x}" for x in names if getattr(c.processor.pixels, x) != getattr(ours, x)]
    wrong = [name for name in wrong if name not in more]
    if wrong and set(wrong) <= set(TRANSFORMERS_HAS):
        instead = "use the transformers format (--format transformers), or openjanus's own"
    if wrong:
        raise ValueError(f"the {what} format cannot express {', '.join(wrong)} of this model: {instead}")
    return vision, drawing


def warn_of_system_prompt(c: CheckpointConfig, what: str, *kept: str) -> None:
    """Warns if a format cannot store the model's system prompt; `kept`: those that it can."""
    prompt = c.processor.system_prompt
    if prompt not in kept:
        warnings.warn(
            f"the {what} format cannot store the system prompt {prompt!r}: after loading the folder, give it "
            "with each conversation",
            stacklevel=3,
        )


def write_tokenizer(text: TextTokenizer, folder: Path, more: dict[str, Any] | None = None) -> None:
    """Writes tokenizer.json, and transformers' two files about special tokens."""
    text.save(folder / "tokenizer.json")
    special = {} if text.bos_id is None else {"bos_token": BOS}
    special |= {"eos_token": EOS, "pad_token": PAD}
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **special,
            **(more or {}),
        },
    )
    others = [token for token in (*SPECIAL_TOKENS, IMAGE_PLACEHOLDER) if token not in (BOS, EOS, PAD)]
    write_json(folder / "special_tokens_map.json", {**special, "additional_special_tokens": others})


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
