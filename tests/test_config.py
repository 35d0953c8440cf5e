"""Configs: round trips, overrides, and errors that say what to type instead."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from openjanus import config as configs
from openjanus.eyes.contrastive import ContrastiveTraining
from openjanus.model.janus import JanusConfig
from openjanus.model.vision_encoder import VisionEncoderConfig
from openjanus.recipes import RECIPES, find_recipe, nano
from openjanus.training.run import Run
from openjanus.training.stage import Stage
from tests.tiny import CONFIG


@dataclass(frozen=True)
class Circle:
    radius: float = 1.0


@dataclass(frozen=True)
class Square:
    side: int = 1
    color: Literal["red", "blue"] = "red"


@dataclass(frozen=True)
class Drawing:
    shape: Circle | Square
    title: str = ""
    size: tuple[int, int] = (1, 2)
    more: tuple[Circle | Square, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    filled: bool = False
    seed: int | None = None


DRAWING = Drawing(Square(3), "é", (4, 5), (Circle(2.0), Square(6)), {"a": 0.5}, True, 7)


def through_json(config):
    return configs.from_dict(type(config), json.loads(json.dumps(configs.to_dict(config))))


@pytest.mark.parametrize("config", [DRAWING, Drawing(Circle()), JanusConfig(), CONFIG], ids=lambda c: type(c).__name__)
def test_round_trip(config, tmp_path):
    assert through_json(config) == config
    configs.save(config, tmp_path / "config.json")
    assert configs.load(type(config), tmp_path / "config.json") == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_round_trip(name):
    run = RECIPES[name]()
    assert through_json(run) == run and run.name == name


def test_type_selects_the_class():
    assert configs.from_dict(Drawing, {"shape": {"type": "Circle"}}).shape == Circle()
    assert configs.from_dict(Drawing, {"shape": {"type": "Square", "side": 2}}).shape == Square(2)
    assert isinstance(through_json(nano.encoder()).task, ContrastiveTraining)


def test_missing_keys_take_their_defaults():
    assert configs.from_dict(JanusConfig, {}) == JanusConfig()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"shape": {"type": "Circle", "radios": 2}}, r"Drawing.shape: unknown key 'radios'; did you mean 'radius'\?"),
        ({"shape": {"type": "Cirkle"}}, r"Drawing.shape: unknown type 'Cirkle'; did you mean 'Circle'\?"),
        ({"shape": {"type": "Circle"}, "zzz": 1}, "Drawing: unknown key 'zzz'; known: shape, title"),
        ({"title": "a"}, "Drawing: missing shape"),
        ({"shape": {"type": "Square", "side": 1.5}}, "Drawing.shape.side is 1.5, expected int"),
        ({"shape": {"type": "Square", "side": True}}, "Drawing.shape.side is True, expected int"),
        ({"shape": {"type": "Square", "color": "green"}}, "is 'green', expected one of 'red', 'blue'"),
        ({"shape": {"type": "Circle", "radius": "1"}}, "Drawing.shape.radius is '1', expected float"),
        ({"shape": {"type": "Circle"}, "title": 3}, "Drawing.title is 3, expected str"),
        ({"shape": {"type": "Circle"}, "size": [1]}, "Drawing.size has 1 items, expected 2"),
        ({"shape": {"type": "Circle"}, "size": [1, "2"]}, "Drawing.size.1 is '2', expected int"),
        ({"shape": {"type": "Circle"}, "size": 3}, "Drawing.size is 3, expected a list"),
        ({"shape": {"type": "Circle"}, "weights": {"a": "b"}}, "Drawing.weights.a is 'b', expected float"),
        ({"shape": {"type": "Circle"}, "filled": 1}, "Drawing.filled is 1, expected bool"),
        ({"shape": {"type": "Circle"}, "seed": "x"}, "Drawing.seed is 'x', expected int"),
        ({"shape": 5}, "Drawing.shape is 5, expected a mapping of Circle"),
        ([], "Drawing is .*, expected a mapping of Drawing"),
        ({"type": "Run"}, "Drawing.type is 'Run', expected 'Drawing'"),
    ],
)
def test_wrong_data_is_named(data, message):
    with pytest.raises(ValueError, match=message):
        configs.from_dict(Drawing, data)


def test_an_int_may_stand_for_a_float():
    radius = configs.from_dict(Circle, {"radius": 2}).radius
    assert radius == 2.0 and isinstance(radius, float)


@pytest.mark.parametrize("text", ["{", "", "[1,", "\x00"])
def test_damaged_json_names_the_file(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json: not JSON"):
        configs.load(JanusConfig, tmp_path / "config.json")


def test_failed_save_keeps_the_old_file(tmp_path):
    path = tmp_path / "config.json"
    configs.save(Circle(3.0), path)
    with pytest.raises(TypeError):
        configs.save(Circle(Path("no JSON")), path)
    assert configs.load(Circle, path) == Circle(3.0)


@pytest.mark.parametrize(
    ("assignment", "changed"),
    [
        ("title=two words", replace(DRAWING, title="two words")),
        ("title=", replace(DRAWING, title="")),
        ("title=a=b", replace(DRAWING, title="a=b")),
        ("filled=false", replace(DRAWING, filled=False)),
        ("seed=null", replace(DRAWING, seed=None)),
        ("shape.side=9", replace(DRAWING, shape=Square(9))),
        ('shape={"type": "Circle", "radius": 4}', replace(DRAWING, shape=Circle(4.0))),
        ("size=[7, 8]", replace(DRAWING, size=(7, 8))),
        ("size.1=8", replace(DRAWING, size=(4, 8))),
        ("more.0.radius=5", replace(DRAWING, more=(Circle(5.0), Square(6)))),
        ('more.1={"type": "Circle"}', replace(DRAWING, more=(Circle(2.0), Circle()))),
        ("weights.a=2", replace(DRAWING, weights={"a": 2.0})),
        ('weights={"b": 1}', replace(DRAWING, weights={"b": 1.0})),
    ],
)
def test_override(assignment, changed):
    assert configs.override(DRAWING, [assignment]) == changed


def test_overrides_apply_in_order_and_leave_the_original():
    assert configs.override(DRAWING, ["shape.side=1", "shape.side=2"]).shape == Square(2)
    assert DRAWING.shape == Square(3)
    assert configs.override(DRAWING, []) == DRAWING


def test_stages_are_found_by_name_and_by_index():
    run = nano.janus()
    by_name = configs.override(run, ["stages.unify.num_steps=7"])
    assert by_name == configs.override(run, ["stages.2.num_steps=7"])
    wanted = [s.num_steps for s in run.stages]
    wanted[2] = 7
    assert [s.num_steps for s in by_name.stages] == wanted
    assert configs.override(run, ["stages.tune.betas.1=0.99"]).stages[3].betas == (0.9, 0.99)
    assert configs.override(run, ["task.model.language_model.width=64"]).task.model.language_model.width == 64


def test_a_source_is_found_though_its_name_has_a_dot():
    run = configs.override(nano.janus(), ["stages.unify.mixture.emoji.texts=9"])
    assert run.stages[2].mixture == {"emoji.questions": 16, "emoji.texts": 9, "emoji.drawings": 48}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("tilte=a", r"override tilte: unknown key 'tilte'; did you mean 'title'\?"),
        ("shape.sied=1", r"override shape.sied: unknown key 'sied'; did you mean 'side'\?"),
        ("title", r"override 'title': expected key=value"),
        ("title.x=1", "override title.x: 'é' is a plain value and has no key 'x'"),
        ("more.5.radius=1", "override more.5.radius: unknown key '5'; known: 0, 1"),
        ("more.first.radius=1", "unknown key 'first'"),
        ("weights.b=1", "override weights.b: unknown key 'b'; known: a"),
        ("weights.a=x", "weights.a is 'x', expected float"),
        ("weights.a.x=1", "override weights.a.x"),
        ("size.0.x=1", "override size.0.x"),
        ("size.0=x", "size.0 is 'x', expected int"),
        ("size=[1]", "size has 1 items, expected 2"),
        ("shape.side=1.5", "shape.side is 1.5, expected int"),
        ("shape.side=one", "shape.side is 'one', expected int"),
        ("shape.color=green", "shape.color is 'green', expected one of"),
        ("shape=Circle", "shape is 'Circle', expected a mapping of Circle"),
        ("=1", "unknown key ''"),
    ],
)
def test_wrong_overrides_are_named(assignment, message):
    with pytest.raises(ValueError, match=message):
        configs.override(DRAWING, [assignment])


def test_a_misspelt_stage_is_named():
    with pytest.raises(ValueError, match=r"unknown key 'unifi'; did you mean 'unify'\?"):
        configs.override(nano.janus(), ["stages.unifi.num_steps=7"])


def test_a_misspelt_recipe_is_named():
    assert find_recipe("nano.janus") is nano.janus
    with pytest.raises(ValueError, match=r"unknown recipe 'nano.jnaus'; did you mean 'nano.janus'\?"):
        find_recipe("nano.jnaus")
    with pytest.raises(ValueError, match=r"known: nano\.tokenizer"):
        find_recipe("zzz")


def test_configs_are_plain_data():
    run = Run("r", ContrastiveTraining(VisionEncoderConfig(pooling_head=True)), (Stage("s", 1, 0.1, {"a": 1}),))
    assert configs.to_dict(run)["stages"][0]["betas"] == [0.9, 0.95]
    assert configs.to_dict(run)["task"]["type"] == "ContrastiveTraining"
