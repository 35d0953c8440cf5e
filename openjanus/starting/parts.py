"""Reads one part of a Janus from a source: its config, and a function that loads the weights into the module.

    language_model           a plain language model (backbones.py), or the body of a Janus
    understanding.encoder    SigLIP (siglip.py), any vision tower of transformers (towers.py), a finished run that
                             trained an encoder, or the encoder of a Janus
    generation.tokenizer     a file of LlamaGen (llamagen.py), a finished run that trained an image tokenizer, or the
                             image tokenizer of a Janus
    generation.semantic      the decoder of a semantic tokenizer: a run that trained one, or a Janus that has one

A source is a folder, a hub id, or a file. A new kind of source is a function here and a line in `KINDS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from torch import nn

from openjanus import config as configs
from openjanus.model.image_tokenizer import ImageTokenizerConfig
from openjanus.model.semantic_tokenizer import SemanticDecoderConfig
from openjanus.model.vision_encoder import VisionEncoderConfig
from openjanus.processing.processor import ProcessorConfig
from openjanus.processing.text import TextTokenizer
from openjanus.starting import backbones, llamagen, siglip, towers
from openjanus.weights.checkpoint import load, load_part, read_config
from openjanus.weights.config import CheckpointConfig
from openjanus.weights.fields import ConfigFiles
from openjanus.weights.hub import find_folder
from openjanus.weights.tensors import check_shapes, shapes_of

BODY, ENCODER, IMAGE_TOKENIZER = "language_model", "understanding.encoder", "generation.tokenizer"
SEMANTIC = "generation.semantic"
RUNS = "runs"  # the default folder of runs; it is never taken for an owner on the hub
FILES = (".pt", ".pth", ".bin", ".ckpt")
JANUS = ("openjanus", "janus", "multi_modality")


@dataclass(frozen=True)
class Part:
    """`config`: the part's. `fill`: loads the weights into a module of this config. `text`: the text tokenizer of a
    body.
    `processor`: the source's processor settings. `check`: raises ValueError if the weights do not fit a Janus of this
    config."""

    config: Any
    fill: Callable[[Any], None]
    text: TextTokenizer | None = None
    processor: ProcessorConfig | None = None
    check: Callable[[CheckpointConfig], None] = lambda config: None

    @property
    def image_size_px(self) -> int:
        """Side of the pictures that an encoder takes."""
        return self.config.image_size_px if self.processor is None else self.processor.pixels.size_px


def read_part(name: str, source: str, image_size_px: int, as_tower: bool = False) -> Part:
    """The part of this name from a source. The weights are read when the part is filled.

    image_size_px: side of the pictures, for a file that does not state it. as_tower: read any encoder of transformers
    as a tower, also SigLIP. Raises ValueError if there is no such source, if it has no such part, or if its config is
    not supported.
    """
    path = Path(source)
    if not path.exists() and path.parts[:1] == (RUNS,):
        raise ValueError(f"start.{name} {source}: no such run; train it first")
    if not path.exists() and path.suffix in FILES:
        raise ValueError(f"start.{name} {source}: no such file")
    if name == IMAGE_TOKENIZER and path.is_file():
        return Part(llamagen.read_config(path, image_size_px), partial(llamagen.fill, path=path))
    if (path / "run.json").is_file() and (trained := _of_run(name, path)):
        return trained
    read = partial(_read_folder, name, as_tower)
    return read(find_folder(source, None, read))


def _read_folder(name: str, as_tower: bool, folder: Path) -> Part:
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: no config.json; expected a folder that has {name}")
    data = ConfigFiles(folder).open("config.json").data
    kind = data.get("model_type", "openjanus")
    if kind in JANUS:
        return _of_janus(name, folder)
    kinds = KINDS.get(name, {})
    if name == ENCODER and towers.is_tower(data) and kind != "siglip2" and (as_tower or kind not in kinds):
        return _of_tower(folder)
    if kind not in kinds:
        more = "; SigLIP 2 of variable resolution (NaFlex) is another encoder" if kind == "siglip2" else ""
        raise ValueError(
            f"{folder}: model_type {kind!r} cannot be {name}, expected {', '.join(kinds) or 'a run or a file'}, or a "
            f"Janus{more}"
        )
    return kinds[kind](folder)


def _of_backbone(folder: Path) -> Part:
    backbone = backbones.read_backbone(folder)
    return Part(
        backbone.config,
        lambda body: backbones.fill_body(body, backbone),
        backbone.text,
        check=lambda config: backbone.check(config.model.language_model),
    )


def _of_siglip(folder: Path) -> Part:
    config = siglip.read_config(folder)
    processor = ProcessorConfig(siglip.read_pixels(folder, config.image_size_px))
    return Part(config, partial(siglip.fill, folder=folder), processor=processor)


def _of_tower(folder: Path) -> Part:
    eye, pixels = towers.read_tower(str(folder))
    return Part(eye.encoder, partial(towers.fill, folder=folder), processor=ProcessorConfig(pixels))


def _of_janus(name: str, folder: Path) -> Part:
    config, text = read_config(folder)
    eye = attrgetter(name.split(".")[0])(config.model)
    part = eye if name == BODY else getattr(eye, name.split(".")[1], None)
    if part is None:
        raise ValueError(f"{folder}: its {type(eye).__name__} has no {name}")

    def fill(module: nn.Module) -> None:
        state = attrgetter(name)(load(folder, only=f"{name}.").model).state_dict()
        check_shapes(shapes_of(state), shapes_of(module.state_dict()), f"{folder}: {name}")
        module.load_state_dict(state)

    return Part(part, fill, text if name == BODY else None, config.processor)


# Trainings of one part: the type of the task, its field with the part's config, and the part's name in the run.
TRAINED: dict[str, tuple[str, str, type]] = {
    ENCODER: ("ContrastiveTraining", "vision_encoder", VisionEncoderConfig),
    IMAGE_TOKENIZER: ("TokenizerTraining", "tokenizer", ImageTokenizerConfig),
    SEMANTIC: ("TokenizerTraining", "semantic", SemanticDecoderConfig),
}
UNUSED = ("pooling_head.*", "codebook.shapes", "codebook.colours")  # tensors of such runs that a Janus does not need


def _of_run(name: str, folder: Path) -> Part | None:
    """The part that a run trained; None if it is the run of a whole Janus."""
    task = configs.read_json(folder / "run.json").get("task", {})
    if task.get("type") not in {kind for kind, _, _ in TRAINED.values()}:
        return None
    kind, field, config_class = TRAINED.get(name, ("", "", VisionEncoderConfig))
    if task["type"] != kind or task.get(field) is None:
        raise ValueError(f"start.{name} {folder}: a run of {task['type']}, which gives no {name}")
    config: Any = configs.from_dict(config_class, task[field], str(folder / "run.json"))
    return Part(
        config, lambda module: load_part(module, str(folder), f"{field}.", dropped=("pooling_head.*", "codebook.?*s"))
    )


KINDS: dict[str, dict[str, Callable[[Path], Part]]] = {
    BODY: dict.fromkeys(backbones.FAMILIES, _of_backbone),
    ENCODER: {siglip.WHOLE: _of_siglip, siglip.ENCODER: _of_siglip},
}
