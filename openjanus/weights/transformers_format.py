"""The conversions for Hugging Face transformers (`model_type: janus`), such as deepseek-community/Janus-Pro-1B.

    config.json, generation_config.json
    model.safetensors | shards
    tokenizer.json, tokenizer_config.json, special_tokens_map.json
    processor_config.json, preprocessor_config.json, chat_template.jinja

Source: transformers, models/janus (configuration_janus.py, modeling_janus.py, processing_janus.py).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openjanus.model.image_tokenizer import ImageTokenizerConfig
from openjanus.model.janus import JanusConfig
from openjanus.model.siglip_eye import SigLIPEyeConfig
from openjanus.model.vision_encoder import VisionEncoderConfig
from openjanus.model.vq_eye import VQEyeConfig
from openjanus.processing.processor import ROLES, ProcessorConfig
from openjanus.processing.text import BEGIN_OF_IMAGE, END_OF_IMAGE, IMAGE_PLACEHOLDER, TextTokenizer
from openjanus.weights.body import LLAMA, QWEN3_IN_JANUS, body_config, ignore_indifferent, read_body
from openjanus.weights.config import CheckpointConfig
from openjanus.weights.fields import ConfigFiles, Fields
from openjanus.weights.foreign import (
    TANH_GELU,
    TRANSFORMERS_HAS,
    choose_template,
    has_role_tokens,
    pixel_settings,
    plain_eyes,
    read_pixels,
    read_vision,
    warn_of_system_prompt,
    write_json,
    write_tokenizer,
)
from openjanus.weights.official import SYSTEM_PROMPT

# The layout of processing/processor.py in Jinja: pictures on lines of their own, the roles' words as they are.
CHAT_TEMPLATE = """\
{%- set line = '\\n' -%}
{%- for message in messages -%}
{%- set said = [message['content']] if message['content'] is string else message['content'] -%}
{%- if message['role'] == 'system' -%}
{%- for part in said -%}{{ part if part is string else part['text'] }}{%- endfor -%}{{ line + line }}
{%- else -%}
{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT: ' }}
{%- for part in said -%}
{%- set before = none if loop.first else said[loop.index0 - 1] -%}
{%- if part is not string and part['type'] == 'image' -%}
{{ '' if loop.first else line }}<image_placeholder>
{%- else -%}
{%- set text = part if part is string else part['text'] -%}
{%- set text = text.lstrip() if loop.first else text -%}
{%- set text = text.rstrip() if loop.last else text -%}
{%- if loop.first or text.startswith(line) -%}{{ text }}
{%- elif before is not string and before['type'] == 'image' -%}{{ line + text }}
{%- else -%}{{ ' ' + text }}{%- endif -%}
{%- endif -%}
{%- endfor -%}
{{ line + line if message['role'] == 'user' else eos_token }}
{%- endif -%}
{%- endfor -%}
{{ 'ASSISTANT:' if add_generation_prompt else '' }}"""


def read_config(
    files: ConfigFiles, tensors: Mapping[str, Any], text_tokenizer: TextTokenizer, as_configured: bool = False
) -> CheckpointConfig:
    """The config of a transformers folder; `tensors` are the names that its weights hold."""
    c = files.open("config.json")
    c.expect("model_type", "janus")
    # The outermost value decides, whatever text_config says (transformers 5.10 and later); but a stored head counts.
    tied = c.take("tie_word_embeddings", bool, True) and "lm_head.weight" not in tensors
    text = read_body(c.inner("text_config"), tied, (LLAMA, QWEN3_IN_JANUS))
    vision = _vision(c.inner("vision_config", {}), text.width)
    tokenizer, head_width = _image_tokenizer(c.inner("vq_config", {}), vision, text.width)
    ignore_indifferent(c)
    c.ignore("image_token_index")
    processor = _processor(files, vision, text_tokenizer, as_configured)
    files.check()
    eyes = SigLIPEyeConfig(vision), VQEyeConfig(tokenizer, head_width)
    return CheckpointConfig(JanusConfig(text, *eyes), processor)


def _vision(c: Fields, text_width: int) -> VisionEncoderConfig:
    default = VisionEncoderConfig()
    mlp_width = int(c.size("hidden_size", default.width) * c.take("mlp_ratio", float, 4.0))
    config = read_vision(c, default, mlp_width)  # older files give the MLP's width itself
    c.expect("attention_bias", True)
    c.expect("use_qk_norm", False)
    c.expect("depth", 2)
    c.expect("num_image_tokens", config.num_features)
    c.expect("projection_dim", text_width)
    c.ignore("hidden_dropout_rate", "projection_dropout")
    return config


def _image_tokenizer(c: Fields, vision: VisionEncoderConfig, text_width: int) -> tuple[ImageTokenizerConfig, int]:
    default = ImageTokenizerConfig()
    config = ImageTokenizerConfig(
        image_size_px=vision.image_size_px,
        base_width=c.size("base_channels", default.base_width),
        width_multipliers=c.sizes("channel_multiplier", default.width_multipliers),
        num_res_blocks=c.size("num_res_blocks", default.num_res_blocks),
        latent_width=c.size("latent_channels", default.latent_width),
        num_ids=c.size("num_embeddings", default.num_ids),
        code_width=c.size("embed_dim", default.code_width),
    )
    patches = vision.image_size_px // vision.patch_px
    if config.grid_side != patches:
        raise ValueError(f"{c.file}: {c.section} gives {config.grid_side} image ids a side, but {patches} patches")
    c.expect("double_latent", False)
    c.expect("in_channels", 3)
    c.expect("out_channels", 3)
    c.expect("hidden_act", "gelu")
    c.expect("num_hidden_layers", 2)
    c.expect("depth", 2)  # transformers' converter writes it, and its models do not read it
    c.expect("image_token_embed_dim", text_width)
    c.expect("projection_dim", text_width)
    c.ignore("dropout", "num_patches", "resolution", "attn_resolutions")
    return config, text_width


def _processor(
    files: ConfigFiles, vision: VisionEncoderConfig, text_tokenizer: TextTokenizer, as_configured: bool
) -> ProcessorConfig:
    c = files.open("processor_config.json")
    c.expect("num_image_tokens", vision.num_features)
    has_system_prompt = c.take("use_default_system_prompt", bool, False)
    in_processor = c.take("chat_template", str, "")
    c.ignore("processor_class", "auto_map")
    if (files.folder / "preprocessor_config.json").is_file():
        c.ignore("image_processor")
        preprocessor = files.open("preprocessor_config.json")
    else:
        preprocessor = c.inner("image_processor", {})  # newer files hold the preprocessor here
    tokens = has_role_tokens(text_tokenizer) or ROLES["deepseek"]["user"] in (
        _chat_template(files.folder) or in_processor
    )
    return ProcessorConfig(
        read_pixels(preprocessor, vision.image_size_px, as_configured),
        choose_template(files.folder, text_tokenizer, tokens),
        SYSTEM_PROMPT if has_system_prompt else "",
    )


def _chat_template(folder: Path) -> str:
    """The folder's chat template, wherever transformers' versions keep it; empty without one."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            template = json.loads((folder / name).read_text(encoding="utf-8")).get("chat_template")
            if isinstance(template, str):
                return template
    return ""


def write_config(config: CheckpointConfig, text: TextTokenizer, folder: Path) -> None:
    """Writes the configs that transformers reads. Raises ValueError for a model that it has no place for."""
    m = config.model
    vision, drawing = plain_eyes(config, "transformers", TRANSFORMERS_HAS)
    warn_of_system_prompt(config, "transformers", "", SYSTEM_PROMPT)
    lm, vq = m.language_model, drawing.tokenizer
    if drawing.head_width != lm.width:
        raise ValueError(
            f"transformers has no place for an image head of width {drawing.head_width} beside a body of {lm.width}"
        )
    # transformers keeps the ratio and truncates the product
    if vision.mlp_width != int(vision.width * (vision.mlp_width / vision.width)):
        raise ValueError(f"transformers has no place for a vision mlp_width of {vision.mlp_width}")
    text = text.with_special(IMAGE_PLACEHOLDER)
    ids = {"bos_token_id": text.bos_id, "eos_token_id": text.eos_id, "pad_token_id": text.pad_id}
    write_json(
        folder / "config.json",
        {
            "architectures": ["JanusForConditionalGeneration"],
            "model_type": "janus",
            "image_token_id": text.special_id(IMAGE_PLACEHOLDER),
            "tie_word_embeddings": lm.tie_text_head,
            "text_config": body_config(lm) | ids,
            "vision_config": {
                "model_type": "janus_vision_model",
                "hidden_size": vision.width,
                "image_size": vision.image_size_px,
                "hidden_act": TANH_GELU if vision.tanh_gelu else "gelu",
                "patch_size": vision.patch_px,
                "num_hidden_layers": vision.num_layers,
                "num_attention_heads": vision.num_heads,
                "mlp_ratio": vision.mlp_width / vision.width,
                "num_image_tokens": vision.num_features,
                "projection_dim": lm.width,
            },
            "vq_config": {
                "model_type": "janus_vqgan",
                "base_channels": vq.base_width,
                "channel_multiplier": list(vq.width_multipliers),
                "num_res_blocks": vq.num_res_blocks,
                "latent_channels": vq.latent_width,
                "num_embeddings": vq.num_ids,
                "embed_dim": vq.code_width,
                "num_patches": vq.grid_side,
                "image_token_embed_dim": lm.width,
                "projection_dim": lm.width,
            },
        },
    )
    p = config.processor
    write_json(
        folder / "generation_config.json",
        {**ids, "generation_kwargs": {"boi_token_id": text.begin_of_image_id}},
    )
    write_json(
        folder / "processor_config.json",
        {
            "processor_class": "JanusProcessor",
            "num_image_tokens": vision.num_features,
            "use_default_system_prompt": p.system_prompt == SYSTEM_PROMPT,
        },
    )
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "JanusImageProcessor",
            "processor_class": "JanusProcessor",
            "size": {"height": p.pixels.size_px, "width": p.pixels.size_px},
            **pixel_settings(p.pixels),
        },
    )
    roles = ROLES[p.template]
    words = CHAT_TEMPLATE.replace("USER", roles["user"]).replace("ASSISTANT", roles["assistant"])
    (folder / "chat_template.jinja").write_text(words, encoding="utf-8")
    extra = {"image_token": IMAGE_PLACEHOLDER, "boi_token": BEGIN_OF_IMAGE, "eoi_token": END_OF_IMAGE}
    more = {"extra_special_tokens": extra, "model_max_length": lm.max_positions, "padding_side": "left", **extra}
    write_tokenizer(text, folder, more)
