"""The official checkpoints: deepseek-ai/Janus-1.3B, Janus-Pro-1B, Janus-Pro-7B (`model_type: multi_modality`).

    config.json                                   six sections, one for each part
    model.safetensors | shards | pytorch_model*.bin
    tokenizer.json, tokenizer_config.json, special_tokens_map.json
    processor_config.json, preprocessor_config.json

The official code builds its SigLIP and VQ-16 at fixed sizes, whatever config.json says. Other sizes are written with
the keys of `VISION_KEYS` and `VQ_KEYS` beside the official ones, for tests and for small models. Source:
deepseek-ai/Janus (models/modeling_vlm.py, siglip_vit.py, vq_model.py, processing_vlm.py).
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from openjanus.model.image_tokenizer import ImageTokenizerConfig
from openjanus.model.janus import JanusConfig
from openjanus.model.siglip_eye import SigLIPEyeConfig
from openjanus.model.vision_encoder import VisionEncoderConfig
from openjanus.model.vq_eye import VQEyeConfig
from openjanus.processing.processor import ProcessorConfig
from openjanus.processing.text import IMAGE_PLACEHOLDER, TextTokenizer
from openjanus.weights.body import body_config, ignore_indifferent, read_body
from openjanus.weights.config import CheckpointConfig
from openjanus.weights.fields import ConfigFiles, Fields
from openjanus.weights.foreign import (
    choose_template,
    pixel_settings,
    plain_eyes,
    read_pixels,
    warn_of_system_prompt,
    write_json,
    write_tokenizer,
)

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


def read_config(
    files: ConfigFiles, tensors: Mapping[str, Any], text_tokenizer: TextTokenizer, as_configured: bool = False
) -> CheckpointConfig:
    """The config of an official folder; `tensors` are the names that its weights hold."""
    c = files.open("config.json")
    c.expect("model_type", "multi_modality")
    tied = c.inner("language_config").take("tie_word_embeddings", bool, False)
    # transformers, too, keeps the two apart if a file holds both
    text = read_body(c.inner("language_config"), tied and "language_model.lm_head.weight" not in tensors)
    vision = _vision(c.inner("vision_config"))
    tokenizer = _image_tokenizer(c.inner("gen_vision_config"), vision.image_size_px)
    _adaptor(c.inner("aligner_config"), vision.width, text.width)
    _adaptor(c.inner("gen_aligner_config"), tokenizer.code_width, text.width)
    head = c.inner("gen_head_config")
    head.expect("cls", "vision_head")
    p = head.inner("params")
    head_width = p.size("image_token_embed")
    p.expect("image_token_size", tokenizer.num_ids)
    p.expect("n_embed", text.width)
    ignore_indifferent(c)
    processor = _processor(files, vision, text_tokenizer, as_configured)
    files.check()
    eyes = SigLIPEyeConfig(vision), VQEyeConfig(tokenizer, head_width)
    return CheckpointConfig(JanusConfig(text, *eyes), processor)


def _vision(c: Fields) -> VisionEncoderConfig:
    c.expect("cls", "CLIPVisionTower")
    p = c.inner("params")
    p.expect("model_name", SIGLIP)
    p.expect("select_feature", "same")
    p.expect("select_layer", -1)
    p.expect("pixel_mean")
    p.expect("pixel_std")
    default = VisionEncoderConfig()
    sizes: dict[str, Any] = {ours: p.size(theirs, getattr(default, ours)) for theirs, ours in VISION_KEYS.items()}
    return VisionEncoderConfig(image_size_px=p.size("image_size", default.image_size_px), **sizes)


def _image_tokenizer(c: Fields, image_size_px: int) -> ImageTokenizerConfig:
    c.expect("cls", "VQ-16")
    p = c.inner("params")
    default = ImageTokenizerConfig()
    sizes: dict[str, Any] = {ours: p.size(theirs, getattr(default, ours)) for theirs, ours in VQ_KEYS.items()}
    return ImageTokenizerConfig(
        image_size_px=image_size_px,
        width_multipliers=p.sizes("ch_mult", default.width_multipliers),
        num_ids=p.size("image_token_size"),
        code_width=p.size("n_embed"),
        **sizes,
    )


def _adaptor(c: Fields, width_in: int, width: int) -> None:
    c.expect("cls", "MlpProjector")
    p = c.inner("params")
    p.expect("projector_type", "mlp_gelu")
    p.expect("depth", 2)
    p.expect("input_dim", width_in)
    p.expect("n_embed", width)


def _processor(
    files: ConfigFiles, vision: VisionEncoderConfig, text: TextTokenizer, as_configured: bool
) -> ProcessorConfig:
    c = files.open("processor_config.json")
    c.expect("add_special_token", False)
    c.expect("image_tag", IMAGE_PLACEHOLDER)
    c.expect("num_image_tokens", vision.num_features)
    c.expect("sft_format", "deepseek", "deepseek_old")
    named = c.take("sft_format", str, "deepseek")
    c.ignore("ignore_id", "mask_prompt", "processor_class", "image_start_tag", "image_end_tag", "pad_tag")
    template = choose_template(files.folder, text, tokens=named == "deepseek")
    pixels = read_pixels(files.open("preprocessor_config.json"), vision.image_size_px, as_configured)
    return ProcessorConfig(pixels, template, SYSTEM_PROMPT)


def write_config(config: CheckpointConfig, text: TextTokenizer, folder: Path) -> None:
    """Writes config.json and what the official processor reads. Raises ValueError for a model that the official code
    has no place for."""
    m = config.model
    vision, drawing = plain_eyes(config, "official")
    warn_of_system_prompt(config, "official", SYSTEM_PROMPT)
    lm, vq = m.language_model, drawing.tokenizer
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
                    "image_token_embed": drawing.head_width,
                    "image_token_size": vq.num_ids,
                    "n_embed": lm.width,
                },
            },
            "gen_vision_config": {
                "cls": "VQ-16",
                "model_type": "gen_vision",
                "params": {"image_token_size": vq.num_ids, "n_embed": vq.code_width, **vq_sizes},
            },
            "language_config": body_config(lm),
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
            "num_image_tokens": vision.num_features,
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
    write_tokenizer(text.with_special(IMAGE_PLACEHOLDER), folder)
