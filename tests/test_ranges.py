"""Every number of every config has a range, kept wherever a config is made; a wrong one is named by its path."""

import importlib
import json
import math
import pkgutil
import typing
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any

import pytest

import openjanus
from openjanus import config as configs
from openjanus.config import Config, ConfigError, NonNegativeInt, PositiveFloat, PositiveInt, Range
from openjanus.eyes.contrastive import ContrastiveTraining
from openjanus.model.image_tokenizer import ImageTokenizerConfig
from openjanus.model.language_model import LanguageModelConfig
from openjanus.model.vision_encoder import VisionEncoderConfig
from openjanus.model.vq_eye import VQEyeConfig
from openjanus.processing.image import PixelConfig
from openjanus.recipes import nano
from openjanus.serve.limits import Limits
from openjanus.testing import tiny_checkpoint
from openjanus.training.janus import JanusTraining
from openjanus.training.loop import Schedule
from openjanus.training.run import Run
from openjanus.training.stage import Stage
from openjanus.weights import checkpoint
from openjanus.weights.config import CheckpointConfig

CONFIG_NAMES = ("Config", "Settings", "Options", "Training", "Limits", "Schedule", "Stage", "Run")
NO_CONFIGS = ("FleetConfig", "Training")  # a class of transformers; a model with its data and its loss
ENCODER, TOKENIZER = "task.model.understanding.encoder", "task.model.generation.tokenizer"
EXTRAS = ("vllm", "ray")  # modules of the package that need these are not imported here


def package_dataclasses() -> dict[str, type]:
    """All dataclasses that the package's modules define, by their full name."""
    found = {}
    for module in pkgutil.walk_packages(openjanus.__path__, "openjanus."):
        if module.name.endswith("__main__") or module.name.startswith("openjanus.cli"):
            continue  # options of commands are not stored; what they set is checked where it is used
        try:
            members = vars(importlib.import_module(module.name)).values()
        except ModuleNotFoundError as error:
            assert (error.name or "").partition(".")[0] in EXTRAS, error
            continue
        found |= {f"{c.__module__}.{c.__name__}": c for c in members if isinstance(c, type) and is_dataclass(c)}
    return {name: c for name, c in found.items() if name.startswith("openjanus.")}


def parts(hint: Any) -> typing.Iterator[type]:
    """All config classes inside a type."""
    if isinstance(hint, type) and is_dataclass(hint):
        yield hint
    for argument in typing.get_args(hint):
        yield from parts(argument)


def unbounded(hint: Any, where: str) -> list[str]:
    """Paths of the numbers inside a type that state no range."""
    if typing.get_origin(hint) is Annotated:
        if any(isinstance(m, Range) for m in hint.__metadata__):
            return []
        return unbounded(typing.get_args(hint)[0], where)
    if hint in (int, float):
        return [where]
    if typing.get_origin(hint) is typing.Literal:
        return []
    return [path for argument in typing.get_args(hint) for path in unbounded(argument, where)]


def complaints(cls: type) -> list[str]:
    """What a config class does not check."""
    found = [] if issubclass(cls, Config) else [f"{cls.__name__} is no Config: nothing is checked when it is made"]
    for name, hint in configs.hints_of(cls).items():
        found += unbounded(hint, f"{cls.__name__}.{name} has no range")
    return found


def test_every_number_of_every_config_has_a_range() -> None:
    waiting = [
        c
        for c in package_dataclasses().values()
        if issubclass(c, Config) or (c.__name__.endswith(CONFIG_NAMES) and c.__name__ not in NO_CONFIGS)
    ]
    seen: list[type] = []
    while waiting:
        cls = waiting.pop()
        if cls not in seen:
            seen.append(cls)
            waiting += [part for hint in configs.hints_of(cls).values() for part in parts(hint)]
    assert {Run, CheckpointConfig, Limits, Schedule, PixelConfig, LanguageModelConfig} <= set(seen)
    found = [complaint for cls in seen for complaint in complaints(cls)]
    assert not found, "\n".join(found)


@dataclass(frozen=True)
class Bare:
    side: int = 1


@dataclass(frozen=True)
class Loose(Config):
    sizes: tuple[float, ...] = ()
    weights: dict[str, int] = field(default_factory=dict)
    limit: int | None = None
    text: str = ""
    good: Annotated[int, Range(1)] | None = None


def test_the_walk_sees_numbers_without_a_range() -> None:
    assert complaints(Bare) == ["Bare is no Config: nothing is checked when it is made", "Bare.side has no range"]
    assert complaints(Loose) == [f"Loose.{name} has no range" for name in ("sizes", "weights", "limit")]


@dataclass(frozen=True)
class Shape(Config):
    sides: PositiveInt = 3
    size: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    counts: dict[str, NonNegativeInt] = field(default_factory=dict)
    share: Annotated[float, Range(0, 1)] = 0.5
    beta: Annotated[float, Range(0, below=1)] = 0.5
    any: Annotated[float, Range()] = 0.0
    limit: Annotated[int, Range(1)] | None = None

    def check(self) -> None:
        if self.sides > 9:
            raise ConfigError(f"sides is {self.sides}, too many for a shape")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sides": 0}, "sides is 0, expected 1 or more"),
        ({"sides": 2.5}, "sides is 2.5, expected int"),
        ({"sides": True}, "sides is True, expected int"),
        ({"sides": "3"}, "sides is '3', expected int"),
        ({"sides": None}, "sides is None, expected int"),
        ({"sides": 12}, "sides is 12, too many for a shape"),
        ({"size": (1.0, 0.0)}, "size.1 is 0.0, expected more than 0"),
        ({"size": (1.0,)}, "size has 1 items, expected 2"),
        ({"counts": {"a": 1, "b": -1}}, "counts.b is -1, expected 0 or more"),
        ({"share": 1.5}, "share is 1.5, expected 0 to 1"),
        ({"beta": 1}, "beta is 1, expected 0 or more and less than 1"),
        ({"any": math.nan}, "any is nan, expected a finite number"),
        ({"any": math.inf}, "any is inf, expected a finite number"),
        ({"limit": 0}, "limit is 0, expected 1 or more"),
    ],
)
def test_a_wrong_number_is_refused_where_a_config_is_made(values, message) -> None:
    with pytest.raises(ConfigError) as error:
        Shape(**values)
    assert str(error.value) == message
    with pytest.raises(ConfigError) as error:
        replace(Shape(), **values)
    assert str(error.value) == message


def test_numbers_within_their_ranges_pass() -> None:
    Shape(9, (0.1, 2), {"a": 0}, 1, 0.0, -1e9, 7)
    Shape(share=0, limit=None)


def override(assignment: str) -> str:
    """The error that an override of the recipe nano.janus gives."""
    with pytest.raises(ValueError) as error:
        configs.override(nano.janus(), [assignment])
    return str(error.value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("stages.unify.num_steps=-3", "stages.unify.num_steps is -3, expected 1 or more"),
        ("stages.2.num_steps=0", "stages.unify.num_steps is 0, expected 1 or more"),
        ("stages.tune.lr=0", "stages.tune.lr is 0.0, expected more than 0"),
        ("stages.tune.betas.1=1", "stages.tune.betas.1 is 1.0, expected 0 or more and less than 1"),
        ("stages.tune.clip_norm=0", "stages.tune.clip_norm is 0.0, expected more than 0"),
        ("stages.tune.clip_norm=-1", "stages.tune.clip_norm is -1.0, expected more than 0"),
        ("stages.tune.mixture={}", "stages.tune.mixture is {}, expected a source with 1 or more examples per step"),
        (
            'stages.tune.mixture={"emoji.texts": 0}',
            "stages.tune.mixture is {'emoji.texts': 0.0}, expected a source",
        ),
        ("stages.tune.mixture.emoji.texts=-1", "stages.tune.mixture.emoji.texts is -1.0, expected 0 or more"),
        ("stages.tune.trainable=[]", "stages.tune.trainable is empty"),
        ("stages=[]", "stages is empty, expected one or more"),
        ("stages.tune.name=adapt", "stages has two stages called 'adapt'"),
        ("schedule.evaluate_steps=0", "schedule.evaluate_steps is 0, expected 1 or more"),
        ("schedule.log_steps=0", "schedule.log_steps is 0, expected 1 or more"),
        ("schedule.checkpoint_seconds=-1", "schedule.checkpoint_seconds is -1.0, expected 0 or more"),
        ("seed=-1", "seed is -1, expected 0 to 4294967295"),
        ("task.drop_caption=1.5", "task.drop_caption is 1.5, expected 0 to 1"),
        ("task.sampling.temperature=-1", "task.sampling.temperature is -1.0, expected 0 or more"),
        ("task.model.language_model.num_kv_heads=4", "task.model.language_model.num_heads is 6, expected a multiple"),
        ("task.model.language_model.head_width=33", "task.model.language_model.head_width is 33, expected an even"),
        (f"{ENCODER}.num_heads=5", f"{ENCODER}.width is 192, expected a multiple of"),
        (f"{ENCODER}.patch_px=7", f"{ENCODER}.image_size_px is 64, expected a multiple"),
        (f"{TOKENIZER}.image_size_px=20", f"{TOKENIZER}.image_size_px is 20, expected a"),
        (f"{TOKENIZER}.num_groups=64", f"{TOKENIZER}.width_multipliers.0 is 1: 1 x base_"),
        (f"{TOKENIZER}.width_multipliers=[]", f"{TOKENIZER}.width_multipliers is empty"),
        ("task.processor.pixels.background.1=256", "task.processor.pixels.background.1 is 256, expected 0 to 255"),
        ("task.processor.pixels.std.2=0", "task.processor.pixels.std.2 is 0.0, expected more than 0"),
        ("task.processor.pixels.min_side_px=65", "task.processor.pixels.min_side_px is 65, expected at most size_px"),
    ],
)
def test_a_wrong_value_of_a_recipe_is_named_by_its_path(assignment, message) -> None:
    assert override(assignment).startswith(message)


def test_values_that_must_fit_each_other_change_together() -> None:
    sizes = [f"{ENCODER}.image_size_px=32", "task.processor.pixels.size_px=32"]
    assert override(sizes[0]).startswith(
        "task.processor.pixels.size_px is 64, but the understanding eye takes pictures"
    )
    for order in (sizes, sizes[::-1]):
        task = configs.override(nano.janus(), order).task
        assert isinstance(task, JanusTraining) and task.model.num_features == 16


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stage("s", 1, 0.1, {}), "mixture is {}"),
        (lambda: Stage("s", 1, 0.1, "emoji.texts"), "mixture is 'emoji.texts', expected a mapping"),
        (lambda: Stage("s", 1, 0.1, {"a": 1}, betas=0.9), "betas is 0.9, expected a tuple"),
        (lambda: LanguageModelConfig(width=0), "width is 0"),
        (lambda: VisionEncoderConfig(num_heads=3), "width is 1024, expected a multiple of num_heads 3"),
        (lambda: ImageTokenizerConfig(width_multipliers=(1, "2")), "width_multipliers.1 is '2', expected int"),  # type: ignore[arg-type]
        (lambda: ContrastiveTraining(VisionEncoderConfig()), "vision_encoder.pooling_head is False, expected True"),
        (lambda: ContrastiveTraining(text_num_heads=7), "text_num_heads is 7, expected a divisor of the width 1024"),
        (lambda: Limits(max_n=0), "max_n is 0"),
        (lambda: VQEyeConfig(head_width=-1), "head_width is -1"),
    ],
)
def test_a_config_made_in_python_is_checked_too(make, message) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value).startswith(message)


def test_a_wrong_number_in_a_file_names_file_and_path(tmp_path) -> None:
    data = configs.to_dict(nano.janus())
    data["stages"][2]["num_steps"] = -3
    path = tmp_path / "run.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError) as error:
        configs.load(Run, path)
    assert str(error.value) == f"{path}: stages.unify.num_steps is -3, expected 1 or more"


@pytest.mark.parametrize("form", ["openjanus", "official", "transformers"])
def test_a_wrong_number_in_a_checkpoint_of_any_format_names_its_file(form, tmp_path) -> None:
    path = tiny_checkpoint(tmp_path, form) / "config.json"
    text = path.read_text()
    for key in ("num_kv_heads", "num_key_value_heads"):
        text = text.replace(f'"{key}": 2', f'"{key}": 3')
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        checkpoint.load(tmp_path)
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).endswith("num_heads is 4, expected a multiple of num_kv_heads 3")


def test_no_default_lies_outside_its_range() -> None:
    def required(f) -> bool:
        return f.default is MISSING and f.default_factory is MISSING

    for cls in package_dataclasses().values():
        if issubclass(cls, Config) and not any(map(required, fields(cls))):
            cls()
