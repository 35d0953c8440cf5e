"""The official checkpoints: deepseek-ai/Janus-1.3B, Janus-Pro-1B, Janus-Pro-7B (`model_type: multi_modality`).

    config.json                                   six sections, one for each part
    model.safetensors | shards | pytorch_model*.bin
    tokenizer.json, tokenizer_config.json, special_tokens_map.json
    processor_config.json, preprocessor_config.json

The official code builds its SigLIP and VQ-16 at fixed sizes, whatever config.json says. Other sizes are written with
the keys of `VISION_KEYS` and `VQ_KEYS` beside the official ones, for tests and for small models. Source:
deepseek-ai/Janus (models/modeling_vlm.py, siglip_vit.py, vq_model.py, processing_vlm.py).
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from openjanus.model.image_tokenizer import ImageTokenizerConfig
from openjanus.model.janus import JanusConfig
from openjanus.model.language_model import LanguageModelConfig
from openjanus.model.vision_encoder import VisionEncoderConfig
from openjanus.processing.image import PixelConfig
from openjanus.processing.processor import ProcessorConfig
from openjanus.processing.text import BOS, EOS, IMAGE_PLACEHOLDER, PAD, SPECIAL_TOKENS, TextTokenizer
from openjanus.weights.config import CheckpointConfig
from openjanus.weights.fields import Fields

# processing_vlm.py; it begins every conversation that does not draw.
SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
SIGLIP = "siglip_large_patch16_384"  # VisionEncoderConfig's defaults; siglip_vit.py knows two more, which nobody used
VISION_KEYS = {
    "patch_size": "patch_px",
    "width": "width",
    "layers": "num_layers",
    "heads": "num_heads",
    "mlp_width": "mlp_width",
}
VQ_KEYS = {"ch": "base_width", "num_res_blocks": "num_res_blocks", "z_channels": "latent_width"}
# What transformers' base class writes into any config, and training settings: nothing here changes a forward pass.
INDIFFERENT = (
    "architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "use_cache", "initializer_*",
    "*_token_id", "attention_dropout", "_attn_implementation*", "_name_or_path", "auto_map", "id2label", "label2id",
    "output_attentions", "output_hidden_states", "return_dict", "chunk_size_feed_forward", "is_encoder_decoder",
    "problem_type", "pretraining_tp",
)  # fmt: skip


def read_config(
    folder: Path, tensors: Mapping[str, Any], text_tokenizer: TextTokenizer, as_configured: bool = False
) -> CheckpointConfig:
    """The config of an official folder; `tensors` are the names that its weights hold."""
    c = Fields.load(folder / "config.json")
    c.expect("model_type", "multi_modality")
    width = c.inner("aligner_config").inner("params").take("n_embed", int)
    text = read_llama(c.inner("language_config"), "language_model.lm_head.weight" in tensors)
    if width != text.width:
        raise ValueError(f"{folder}: aligner n_embed is {width}, but the language model's hidden_size {text.width}")
    vision = _vision(c.inner("vision_config"))
    tokenizer = _image_tokenizer(c.inner("gen_vision_config"), vision.image_size_px)
    _adaptor(c.inner("aligner_config"), vision.width, text.width)
    _adaptor(c.inner("gen_aligner_config"), tokenizer.code_width, text.width)
    head = c.inner("gen_head_config")
    head.expect("cls", "vision_head")
    p = head.inner("params")
    head_width = p.take("image_token_embed", int)
    p.expect("image_token_size", tokenizer.num_ids)
    p.expect("n_embed", text.width)
    for fields in (p, head):
        fields.ignore(*INDIFFERENT)
        fields.done()
    c.ignore(*INDIFFERENT, "tie_word_embeddings")
    c.done()
    processor = _processor(folder, vision, as_configured)
    return CheckpointConfig(JanusConfig(text, vision, tokenizer, head_width), processor)


def read_llama(c: Fields, has_head: bool, tied_default: bool = False) -> LanguageModelConfig:
    """A Llama config of transformers, whose defaults count where a key is absent (configuration_llama.py)."""
    c.expect("model_type", "llama")
    c.expect("hidden_act", "silu")
    c.expect("attention_bias", False)
    c.expect("mlp_bias", False)
    c.expect("rope_scaling", None)
    rope = c.inner("rope_parameters", {})
    rope.expect("rope_type", "default")
    theta = rope.take("rope_theta", float, 10000.0)
    rope.done()
    num_heads = c.take("num_attention_heads", int, 32)
    width = c.take("hidden_size", int, 4096)
    tied = c.take("tie_word_embeddings", bool, tied_default)
    config = LanguageModelConfig(
        vocab_size=c.take("vocab_size", int, 32000),
        width=width,
        num_layers=c.take("num_hidden_layers", int, 32),
        num_heads=num_heads,
        num_kv_heads=c.take("num_key_value_heads", int, num_heads),
        head_width=c.take("head_dim", int, width // num_heads),
        ffn_width=c.take("intermediate_size", int, 11008),
        rms_eps=c.take("rms_norm_eps", float, 1e-6),
        rope_theta=c.take("rope_theta", float, theta),
        max_positions=c.take("max_position_embeddings", int, 2048),
        # transformers, too, keeps the two apart where a file holds both
        tie_text_head=tied and not has_head,
    )
    c.ignore(*INDIFFERENT)
    c.done()
    return config


def _vision(c: Fields) -> VisionEncoderConfig:
    c.expect("cls", "CLIPVisionTower")
    p = c.inner("params")
    p.expect("model_name", SIGLIP)
    p.expect("select_feature", "same")
    p.expect("select_layer", -1)
    p.expect("pixel_mean", None)
    p.expect("pixel_std", None)
    default = VisionEncoderConfig()
    sizes = {ours: p.take(theirs, int, getattr(default, ours)) for theirs, ours in VISION_KEYS.items()}
    config = VisionEncoderConfig(image_size_px=p.take("image_size", int, default.image_size_px), **sizes)
    for fields in (p, c):
        fields.ignore(*INDIFFERENT)
        fields.done()
    return config


def _image_tokenizer(c: Fields, image_size_px: int) -> ImageTokenizerConfig:
    c.expect("cls", "VQ-16")
    p = c.inner("params")
    default = ImageTokenizerConfig()
    config = ImageTokenizerConfig(
        image_size_px=image_size_px,
        width_multipliers=tuple(p.take("ch_mult", list, list(default.width_multipliers))),
        num_ids=p.take("image_token_size", int),
        code_width=p.take("n_embed", int),
        **{ours: p.take(theirs, int, getattr(default, ours)) for theirs, ours in VQ_KEYS.items()},
    )
    for fields in (p, c):
        fields.ignore(*INDIFFERENT)
        fields.done()
    return config


def _adaptor(c: Fields, width_in: int, width: int) -> None:
    c.expect("cls", "MlpProjector")
    p = c.inner("params")
    p.expect("projector_type", "mlp_gelu")
    p.expect("depth", 2)
    p.expect("input_dim", width_in)
    p.expect("n_embed", width)
    for fields in (p, c):
        fields.ignore(*INDIFFERENT)
        fields.done()


def _processor(folder: Path, vision: VisionEncoderConfig, as_configured: bool) -> ProcessorConfig:
    path = folder / "processor_config.json"
    c = Fields.load(path) if path.is_file() else Fields({}, str(path))
    c.expect("add_special_token", False)
    c.expect("image_tag", IMAGE_PLACEHOLDER)
    c.expect("num_image_tokens", vision.num_features)
    template = c.take("sft_format", str, "deepseek")
    if template not in ("deepseek", "deepseek_old"):
        raise ValueError(f"{path}: sft_format is {template!r}; openjanus supports deepseek and deepseek_old")
    c.ignore("ignore_id", "mask_prompt", "processor_class", "image_start_tag", "image_end_tag", "pad_tag")
    c.done()
    pixels = read_pixels(folder / "preprocessor_config.json", vision.image_size_px, as_configured)
    return ProcessorConfig(vision.num_features, pixels, template, SYSTEM_PROMPT)


def read_pixels(path: Path, size_px: int, as_configured: bool, inside: dict[str, Any] | None = None) -> PixelConfig:
    """The preprocessor's settings, from its file or else `inside` another.

    The first Janus-1.3B files switch normalisation off by mistake: the corrected value counts, with a warning, unless
    `as_configured`.
    """
    c = Fields.load(path) if path.is_file() else Fields(inside or {}, str(path))
    default = PixelConfig()
    mean = tuple(float(x) for x in c.take("image_mean", list, list(default.mean)))
    std = tuple(float(x) for x in c.take("image_std", list, list(default.std)))
    background = tuple(c.take("background_color", list, [int(x * 255) for x in mean]))
    normalise = c.take("do_normalize", bool, True)
    if not normalise and not as_configured:
        warnings.warn(
            f"{path}: do_normalize is false, a known mistake of the first Janus-1.3B files (pictures come out pale); "
            "taken as true. Load with as_configured to follow the file.",
            stacklevel=2,
        )
        normalise = True
    if not normalise:
        mean, std = (0.0,) * 3, (1.0,) * 3
    c.expect("size", None, size_px, {"height": size_px, "width": size_px})
    c.expect("image_size", size_px)
    for key in ("do_resize", "do_rescale", "do_pad", "do_convert_rgb"):
        c.expect(key, True, None)
    c.expect("resample", 3, None)
    if abs(c.take("rescale_factor", float, 1 / 255) * 255 - 1) > 1e-6:
        raise ValueError(f"{path}: rescale_factor is {c.data['rescale_factor']}; openjanus supports 1 / 255 alone")
    min_side = c.take("min_size", int, default.min_side_px)
    c.ignore(
        "image_processor_type", "processor_class", "auto_map", "data_format", "input_data_format", "return_tensors",
        "crop_size", "do_center_crop", "device", "disable_grouping", "pad_size", "default_to_square",
        "image_seq_length", "_*",
    )  # fmt: skip
    c.done()
    if len(mean) != 3 or len(std) != 3 or len(background) != 3:
        raise ValueError(f"{path}: expected three values each, got {mean=}, {std=}, {background=}")
    return PixelConfig(size_px, min_side, background, mean, std)


def write_config(config: CheckpointConfig, text: TextTokenizer, folder: Path) -> list[str]:
    """Writes config.json and what the official processor reads; returns the names. Raises ValueError for a model that
    the official code has no place for."""
    m = config.model
    check_plain(m, "official")
    lm, vision, vq = m.language_model, m.vision_encoder, m.image_tokenizer
    vision_sizes = {}
    if replace(vision, image_size_px=384) != VisionEncoderConfig():
        vision_sizes = {theirs: getattr(vision, ours) for theirs, ours in VISION_KEYS.items()}
    vq_sizes: dict[str, Any] = {}
    if replace(vq, image_size_px=384) != ImageTokenizerConfig():
        vq_sizes = {theirs: getattr(vq, ours) for theirs, ours in VQ_KEYS.items()}
        vq_sizes["ch_mult"] = list(vq.width_multipliers)

    def adaptor(width: int) -> dict[str, Any]:
        params = {"depth": 2, "input_dim": width, "n_embed": lm.width, "projector_type": "mlp_gelu"}
        return {"cls": "MlpProjector", "model_type": "aligner", "params": params}

    write_json(
        folder / "config.json",
        {
            "architectures": ["MultiModalityCausalLM"],
            "model_type": "multi_modality",
            "aligner_config": adaptor(vision.width),
            "gen_aligner_config": adaptor(vq.code_width) | {"model_type": "gen_aligner"},
            "gen_head_config": {
                "cls": "vision_head",
                "model_type": "gen_head",
                "params": {
                    "image_token_embed": m.image_head_width,
                    "image_token_size": vq.num_ids,
                    "n_embed": lm.width,
                },
            },
            "gen_vision_config": {
                "cls": "VQ-16",
                "model_type": "gen_vision",
                "params": {"image_token_size": vq.num_ids, "n_embed": vq.code_width, **vq_sizes},
            },
            "language_config": llama_config(lm),
            "vision_config": {
                "cls": "CLIPVisionTower",
                "model_type": "vision",
                "params": {
                    "image_size": vision.image_size_px,
                    "model_name": SIGLIP,
                    "select_feature": "same",
                    "select_layer": -1,
                    **vision_sizes,
                },
            },
        },
    )
    p = config.processor
    write_json(
        folder / "processor_config.json",
        {
            "add_special_token": False,
            "ignore_id": -100,
            "image_tag": IMAGE_PLACEHOLDER,
            "mask_prompt": True,
            "num_image_tokens": p.num_features,
            "processor_class": "VLChatProcessor",
            "sft_format": p.template,
        },
    )
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "VLMImageProcessor",
            "processor_class": "VLChatProcessor",
            "image_size": p.pixels.size_px,
            **pixel_settings(p.pixels),
        },
    )
    return [
        "config.json",
        "processor_config.json",
        "preprocessor_config.json",
        *write_tokenizer(text.with_special(IMAGE_PLACEHOLDER), folder),
    ]


def check_plain(m: JanusConfig, what: str) -> None:
    """Raises ValueError for what only our own format can hold."""
    lm, vq = m.language_model, m.image_tokenizer
    own = {
        "qk_norm": lm.qk_norm,
        "qkv_bias": lm.qkv_bias,
        f"stem_px {vq.stem_px}": vq.stem_px != 1,
        f"num_groups {vq.num_groups}": vq.num_groups != 32,
        "local_encoder": vq.local_encoder,
        "a pooling head": m.vision_encoder.pooling_head,
    }
    for name, used in own.items():
        if used:
            raise ValueError(f"the {what} format has no place for {name} of this model; keep it in openjanus's own")


def llama_config(lm: LanguageModelConfig) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": lm.width,
        "intermediate_size": lm.ffn_width,
        "num_hidden_layers": lm.num_layers,
        "num_attention_heads": lm.num_heads,
        "num_key_value_heads": lm.num_kv_heads,
        "head_dim": lm.head_width,
        "vocab_size": lm.vocab_size,
        "max_position_embeddings": lm.max_positions,
        "rms_norm_eps": lm.rms_eps,
        "rope_theta": lm.rope_theta,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": lm.tie_text_head,
    }


def pixel_settings(p: PixelConfig) -> dict[str, Any]:
    """What both foreign preprocessors call the same."""
    return {
        "background_color": list(p.background),
        "do_normalize": True,
        "image_mean": list(p.mean),
        "image_std": list(p.std),
        "min_size": p.min_side_px,
        "rescale_factor": 1 / 255,
    }


def write_tokenizer(text: TextTokenizer, folder: Path, more: dict[str, Any] | None = None) -> list[str]:
    """tokenizer.json, and the two files that tell transformers what is special."""
    text.save(folder / "tokenizer.json")
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **special,
            **(more or {}),
        },
    )
    others = [token for token in (*SPECIAL_TOKENS, IMAGE_PLACEHOLDER) if token not in special.values()]
    write_json(folder / "special_tokens_map.json", {**special, "additional_special_tokens": others})
    return ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
