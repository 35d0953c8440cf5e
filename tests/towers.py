"""Tiny vision towers of transformers with random weights, each with the preprocessor of its family."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests.tiny import shake

SIDE = 32
SQUARE = {"height": SIDE, "width": SIDE}
CROP = {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE}
SHAPE: dict[str, Any] = {
    "image_size": SIDE, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 48,
}  # fmt: skip
TEXT: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2
}  # fmt: skip
# model_type, changes of the shape, preprocessor, its settings
TOWERS: dict[str, tuple[str, dict[str, Any], Any, dict[str, Any]]] = {
    "clip": ("clip_vision_model", {}, CLIPImageProcessorPil, CROP),
    "siglip 2": ("siglip_vision_model", {}, SiglipImageProcessorPil, {"size": SQUARE, "resample": 2}),
    "siglip so400m": ("siglip_vision_model", {"patch_size": 7}, SiglipImageProcessorPil, {"size": SQUARE}),
    "dinov2": (
        "dinov2",
        {"image_size": 48},
        BitImageProcessorPil,
        {"size": {"shortest_edge": 40}, "crop_size": SQUARE, "image_mean": [0.485, 0.456, 0.406]},
    ),
    "dinov2 with registers": ("dinov2_with_registers", {"num_register_tokens": 4}, BitImageProcessorPil, CROP),
    "dinov3": ("dinov3_vit", {"num_register_tokens": 4}, ViTImageProcessorPil, {"size": SQUARE}),
    "vit": ("vit", {}, ViTImageProcessorPil, {"size": SQUARE}),
    "beit": (
        "beit",
        {"use_relative_position_bias": True, "layer_scale_init_value": 0.1},
        BeitImageProcessorPil,
        {"size": SQUARE},
    ),
    "data2vec": ("data2vec-vision", {}, BeitImageProcessorPil, {"size": SQUARE}),
    "deit": (
        "deit",
        {},
        DeiTImageProcessorPil,
        {"size": {"height": 40, "width": 40}, "crop_size": SQUARE, "do_center_crop": True},
    ),
    "ijepa": ("ijepa", {}, ViTImageProcessorPil, {"size": SQUARE, "resample": 1}),
}
CLASS_TOKENS = {name for name in TOWERS if not name.startswith(("siglip", "ijepa"))}


def make_tower(name: str, folder: Path) -> tuple[Any, Any]:
    """Writes a folder as published; returns transformers' tower and its preprocessor."""
    model_type, changes, processor, settings = TOWERS[name]
    torch.manual_seed(1)
    tower = shake(AutoModel.from_config(AutoConfig.for_model(model_type, **SHAPE | changes)), 2).eval()
    tower.save_pretrained(folder)
    made = processor(**settings)
    made.save_pretrained(folder)
    return tower, made


def make_whole(kind: str, folder: Path) -> Any:
    """Writes a CLIP or SigLIP with both towers; returns its vision tower."""
    classes: dict[str, Any] = {"clip": (CLIPConfig, CLIPModel), "siglip": (SiglipConfig, SiglipModel)}
    config, model = classes[kind]
    torch.manual_seed(1)
    whole = shake(model(config(text_config=TEXT, vision_config=SHAPE)), 3).eval()
    whole.save_pretrained(folder)
    {"clip": CLIPImageProcessorPil, "siglip": SiglipImageProcessorPil}[kind](
        **(CROP if kind == "clip" else {"size": SQUARE})
    ).save_pretrained(folder)
    return whole.vision_model
