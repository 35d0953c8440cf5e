"""Vision towers as transformers publishes them, for the eye that takes any of them (model/tower_eye.py).

    config.json                   of the tower by itself, or of a whole model with a vision_config (CLIP, SigLIP)
    model.safetensors | shards | pytorch_model*.bin
    preprocessor_config.json      size, mean, standard deviation, filter, and whether pictures are squashed or cropped

transformers itself reads config and weights, because its names of modules are not those of the files. Sources:
transformers, image_processing_backends.py, models/*/image_processing_pil_*.py.
"""

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from openjanus.config import ConfigError
from openjanus.model.tower_eye import LAST, TowerEyeConfig, plain_tower, transformers
from openjanus.processing.image import PixelConfig
from openjanus.weights.fields import ConfigFiles, Fields
from openjanus.weights.foreign import three
from openjanus.weights.hub import find_folder
from openjanus.weights.tensors import check_finite

FILTERS: dict[int, Literal["lanczos", "bilinear", "bicubic"]] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
# What a config of transformers says beside the tower's shape.
DROPPED = (
    "architectures", "auto_map", "dtype", "id2label", "label2id", "problem_type", "torch_dtype",
    "transformers_version", "quantization_config", "_*",
)  # fmt: skip


def is_tower(data: dict[str, Any]) -> bool:
    """Whether a config.json is that of a vision tower, or has one inside."""
    return "vision_config" in data or "image_size" in data


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a folder's tower with all defaults; the weights need not be there yet."""
    data = json.loads(json.dumps(_published(folder).to_diff_dict()))
    return {key: value for key, value in data.items() if not any(fnmatchcase(key, pattern) for pattern in DROPPED)}


def read_tower(
    source: str, layer: int = LAST, class_token: bool = False, pixel_shuffle: int = 1
) -> tuple[TowerEyeConfig, PixelConfig]:
    """The config of an eye that is the tower of a folder or hub id, and how it wants its pixels.

    Raises ValueError if there is no such source, or if openjanus cannot honour its files.
    """
    folder = find_folder(source, None, read_pixels)
    pixels = read_pixels(folder)
    try:
        return TowerEyeConfig(read_config(folder), pixels.size_px, layer, class_token, pixel_shuffle), pixels
    except ConfigError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None


def read_pixels(folder: Path) -> PixelConfig:
    """How the tower wants its pixels. Raises ValueError for what openjanus cannot honour."""
    files = ConfigFiles(folder, remedy="correct it, or remove it from the file")
    c = files.open("preprocessor_config.json")
    if not c.data:
        raise ValueError(f"{folder}: no preprocessor_config.json, which says how the tower wants its pictures")
    is_cropped = c.take("do_center_crop", bool, False)
    side, shortest = _size(c, is_cropped)
    size_px = _square(c, "crop_size") if is_cropped else side
    if shortest and not is_cropped:
        raise ValueError(f"{c.file}: size.shortest_edge without do_center_crop gives pictures of every size")
    filter = c.take("resample", int)
    c.expect("resample", *FILTERS)
    for key in ("do_resize", "do_rescale", "do_convert_rgb"):
        c.expect(key, True)
    if abs(c.take("rescale_factor", float, 1 / 255) * 255 - 1) > 1e-6:
        c.expect("rescale_factor", 1 / 255)
    for key in ("do_pad", "do_reduce_labels"):
        c.expect(key, False)
    c.ignore(
        "crop_size", "pad_size", "*_type", "processor_class", "*data_format", "return_*", "disable_grouping", "device",
        "default_to_square", "image_seq_length", "auto_map", "_*",
    )  # fmt: skip
    mean, std = (0.0,) * 3, (1.0,) * 3
    if c.take("do_normalize", bool, True):
        mean, std = three(c, "image_mean", (), float), three(c, "image_std", (), float)
    c.ignore("image_mean", "image_std")
    files.check()
    try:
        return PixelConfig(
            size_px,
            min(PixelConfig.min_side_px, size_px),
            mean=mean,
            std=std,
            fit="crop" if shortest else "squash",
            resize_px=0 if side == size_px else side,
            resample=FILTERS[filter],
        )
    except ConfigError as error:
        raise ValueError(f"{c.file}: {error}") from None


def _size(c: Fields, is_cropped: bool) -> tuple[int, bool]:
    """The side that pictures are resized to, and whether it is the short one only. Old files have a number; then
    CLIP's preprocessor, which crops, means the short side, but DeiT's means both."""
    if isinstance(c.data.get("size"), dict) and "shortest_edge" in c.data["size"]:
        return c.inner("size").size("shortest_edge"), True
    is_number = isinstance(c.data.get("size"), int)
    kind = str(c.data.get("image_processor_type", c.data.get("feature_extractor_type")))
    return _square(c, "size"), is_number and is_cropped and not kind.startswith("DeiT")


def _square(c: Fields, key: str) -> int:
    """A side given as a number, or as two equal ones."""
    if isinstance(c.data.get(key), int):
        return c.size(key)
    size = c.inner(key)
    height = size.size("height")
    size.expect("width", height)
    return height


@torch.no_grad()
def fill(tower: nn.Module, folder: Path) -> None:
    """Gives a tower the weights of a folder. Raises ValueError naming tensors that are missing or not finite."""
    theirs, report = transformers().AutoModel.from_pretrained(
        folder, config=_published(folder), dtype=torch.float32, output_loading_info=True, local_files_only=True
    )
    state = plain_tower(theirs).state_dict()
    if missing := sorted(name for name in report["missing_keys"] if name.removeprefix("vision_model.") in state):
        raise ValueError(f"{folder}: missing {missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''}")
    for name, tensor in state.items():
        check_finite(tensor, name, str(folder))
    tower.load_state_dict(state)


def _published(folder: Path) -> Any:
    try:
        config = transformers().AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, KeyError) as error:
        raise ValueError(f"{folder / 'config.json'}: {str(error).strip().splitlines()[0]}") from None
    return getattr(config, "vision_config", config)
