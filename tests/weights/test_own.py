"""Our own config files: what format 1 wrote still loads, answers and goes on; a newer format is refused.

`tests/weights/format_1` was written by the last version of that format: a checkpoint of a tiny model, a run that
fine-tunes it, stopped after two of its four steps, what both gave (wanted.json), and the run.json of nano's recipe.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import openjanus
from openjanus.inference.engine import Engine
from openjanus.model.siglip_eye import SigLIPEyeConfig
from openjanus.model.vq_eye import VQEyeConfig
from openjanus.processing.processor import ProcessorConfig
from openjanus.recipes import nano
from openjanus.runtime import Runtime
from openjanus.training.run import Run, restore, train
from openjanus.weights import checkpoint, own
from openjanus.weights.config import Checkpoint, CheckpointConfig
from tests import tiny

OLD = Path(__file__).parent / "format_1"
WANTED = json.loads((OLD / "wanted.json").read_text(encoding="utf-8"))
CPU = Runtime(torch.device("cpu"), "float32", "test")


def given(engine: Engine) -> dict[str, object]:
    ids = engine.generate_ids("two red apples", seed=1)[0].tolist()
    return {"ids": ids, "answer": engine.ask(Image.new("RGB", (16, 16), "red"), "what is it?", max_new_tokens=8)}


@pytest.fixture
def old_model(tmp_path) -> Path:
    return Path(shutil.copytree(OLD / "model", tmp_path / "model"))


def edit(path: Path, change) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def test_an_old_checkpoint_draws_and_answers_as_before(tmp_path) -> None:
    kept = checkpoint.load(OLD / "model")
    assert isinstance(kept.model.config.understanding, SigLIPEyeConfig)
    assert isinstance(kept.model.config.generation, VQEyeConfig)
    assert kept.tasks == ("talk", "draw") and kept.processor.num_features == 4
    assert given(Engine(kept)) == WANTED["model"]
    checkpoint.save(kept, tmp_path / "new")
    written = json.loads((tmp_path / "new" / "config.json").read_text())
    assert written["format"] == own.FORMAT and "vision_encoder" not in written["model"]
    assert "num_features" not in written["processor"]
    again = checkpoint.load(tmp_path / "new")
    assert again.config == kept.config and given(Engine(again)) == WANTED["model"]


def test_an_old_run_is_restored_and_goes_on_as_before(tmp_path) -> None:
    folder = Path(shutil.copytree(OLD / "run", tmp_path / "run"))
    restored = restore(folder)
    assert given(Engine(restored)) == WANTED["run"]
    assert restored.processor.config.system_prompt == "Be brief."
    run = own.load(Run, folder / "run.json")
    train(run, folder, CPU)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line, wanted in zip(lines, WANTED["losses"], strict=True):
        assert {name: line[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)
    assert json.loads((folder / "run.json").read_text())["format"] == own.FORMAT


def test_a_config_goes_through_a_file_of_the_present_format(tmp_path) -> None:
    for config in (nano.janus(), nano.encoder(), nano.tokenizer(), CheckpointConfig(tiny.CONFIG, tiny.PROCESSOR)):
        own.save(config, tmp_path / "config.json")
        assert own.load(type(config), tmp_path / "config.json") == config


def test_keys_that_format_1_left_out_get_their_defaults() -> None:
    config = own.build(CheckpointConfig, {"model": {"image_head_width": 7}, "processor": {}}, "config.json")
    assert config.model.generation == VQEyeConfig(head_width=7)
    assert config.model.understanding == SigLIPEyeConfig() and config.processor == ProcessorConfig()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda c: c.update(format=own.FORMAT + 1),
            rf"format {own.FORMAT + 1} is newer than {own.FORMAT}, the newest .*: install a newer openjanus",
        ),
        (lambda c: c.update(format="two"), "format is 'two', expected a number from 1 to"),
        (lambda c: c.update(format=0), "format is 0, expected a number from 1 to"),
        (lambda c: c.update(format=2), r"unknown key 'vision_encoder'"),
        (
            lambda c: c["processor"].update(num_features=9),
            "processor.num_features is 9, but the understanding eye has 4 positions: they must be equal",
        ),
        (lambda c: c["model"]["vision_encoder"].update(num_layer=3), r"num_layer'; did you mean 'num_layers'"),
        (lambda c: c.update(tasks=["talk", "sing"]), r"tasks.1 is 'sing', expected one of 'talk', 'draw', 'edit'"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(old_model, change, words) -> None:
    edit(old_model / "config.json", change)
    with pytest.raises(ValueError, match=rf"model/config\.json: .*{words}") as error:
        openjanus.load(old_model, "cpu")
    assert "\n" not in str(error.value)


def test_the_old_run_of_a_recipe_is_the_recipes_of_today(tmp_path) -> None:
    """So that such a run goes on by the same command."""
    path = Path(shutil.copy(OLD / "nano.janus.run.json", tmp_path))
    assert own.load(Run, path) == nano.janus()
    edit(path, lambda c: c["task"]["processor"].update(num_features=65))
    with pytest.raises(ValueError, match=r"processor.num_features is 65, but the understanding eye has 64 positions"):
        own.load(Run, path)


def test_an_old_run_whose_processor_disagrees_is_refused(tmp_path) -> None:
    folder = Path(shutil.copytree(OLD / "run", tmp_path / "run"))
    edit(folder / "model.json", lambda c: c["processor"].update(num_features=3))
    with pytest.raises(ValueError, match=r"model\.json: processor.num_features is 3, but the understanding eye has 4"):
        restore(folder)


def test_what_a_checkpoint_was_trained_to_do_is_kept(tmp_path) -> None:
    made = tiny.checkpoint()
    checkpoint.save(Checkpoint(made.model, made.processor, {}, tasks=("talk",)), tmp_path / "model")
    assert checkpoint.load(tmp_path / "model").tasks == ("talk",)
    for form in ("official", "transformers"):
        from openjanus.testing import tiny_checkpoint

        assert checkpoint.load(tiny_checkpoint(tmp_path / form, form)).tasks == ("talk", "draw")
