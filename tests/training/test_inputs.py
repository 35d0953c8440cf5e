"""What a run reads besides its config: each source's own drawings, and on resuming the same as before."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from openjanus.cli.tokenize import image_ids_file
from openjanus.data.image_ids import ImageIds
from openjanus.data.sources import SOURCES, find_source
from openjanus.emoji.sources import drawings
from openjanus.processing.image import generation_pixels
from openjanus.recipes.tokenizing import tokenize_source
from openjanus.runtime import Runtime
from openjanus.sequence import GenerateSpan, Kind
from openjanus.training import run as runs
from openjanus.training.janus import JanusTraining, janus_training, starting_tokenizer
from openjanus.training.loop import Training, fit
from openjanus.training.run import Run, make_training, restore
from openjanus.training.stage import Stage
from openjanus.weights import checkpoint
from tests import tiny

CPU = Runtime(torch.device("cpu"), "float32", "test")
STAGE = Stage("tune", 4, 1e-3, {"emoji.drawings": 2})
FIRST, SECOND = "emoji.drawings", "other.drawings"


@pytest.fixture
def run(tmp_path) -> Run:
    """A run that starts from a checkpoint, with the ids of eight drawings."""
    task = JanusTraining(
        start=str(tmp_path / "start"),
        image_ids=str(tmp_path / "ids"),
        model=tiny.CONFIG,
        processor=tiny.PROCESSOR,
        row_tokens=160,
        drop_caption=0.0,
    )
    make_eyes(task)
    make_ids(task)
    return Run("tune", task, (STAGE,))


def make_eyes(task: JanusTraining, seed: int = 0) -> None:
    """Writes the checkpoint that the run starts from."""
    kept = tiny.checkpoint()
    tiny.shake(kept.model.generation.tokenizer, seed)
    checkpoint.save(kept, Path(str(task.start)))


def make_ids(task: JanusTraining, num: int = 8, seed: int = 0) -> None:
    tokenize_source(starting_tokenizer(task), FIRST, seed, num, Path(str(task.image_ids)))


def drawn_ids(training: Training, name: str, seed: int, index: int) -> list[int]:
    document = training.data.document(name, find_source(name, "conversations")("train", seed), index)
    (ids,) = [list(span.image_ids) for span in document if isinstance(span, GenerateSpan)]
    return ids


@pytest.fixture
def second_source(monkeypatch) -> None:
    monkeypatch.setitem(SOURCES, SECOND, (lambda split, seed: drawings(split, seed + 100), "conversations"))


def test_each_source_is_trained_with_its_own_drawings(run, second_source) -> None:
    training = janus_training(run.task, seed=5)
    (batch,) = training.data(Stage("s", 1, 1e-3, {FIRST: 2, SECOND: 2}), 0)
    trained = batch.tokens[batch.kind == Kind.GENERATE].view(-1, 16).tolist()
    wanted = []
    for name, seed in ((FIRST, 0), (SECOND, 5)):  # the first one's ids were made with seed 0
        for index in range(2):
            picture = find_source(name, "conversations")("train", seed)(index)[1].content[0]
            pixels = generation_pixels(picture, 16)[None]
            wanted.append(training.model.generation.tokenizer.encode(pixels)[0].tolist())
    assert sorted(trained) == sorted(wanted) and len({tuple(ids) for ids in wanted}) == 4


def test_several_sources_may_have_a_file_each(run, second_source, tmp_path) -> None:
    files = {FIRST: str(run.task.image_ids), SECOND: str(tmp_path / "second")}
    task = replace(run.task, image_ids=files)
    assert image_ids_file(task, SECOND) == files[SECOND]
    tokenize_source(starting_tokenizer(task), SECOND, 0, 3, tmp_path / "second")
    from_files, made_now = janus_training(task, 0), janus_training(replace(task, image_ids=""), 0)
    for name in (FIRST, SECOND):
        for index in range(3):
            assert drawn_ids(from_files, name, 0, index) == drawn_ids(made_now, name, 0, index)
    assert drawn_ids(from_files, SECOND, 0, 3) == drawn_ids(from_files, SECOND, 0, 0)  # they come round
    with pytest.raises(ValueError, match=r"image_ids names no file for third: set task\.image_ids="):
        image_ids_file(task, "third")
    swapped = replace(task, image_ids={FIRST: files[SECOND]})
    with pytest.raises(ValueError, match=f"holds the drawings of {SECOND}, expected those of {FIRST}"):
        janus_training(swapped, 0).inputs()


def test_ids_of_eyes_that_were_made_again_are_not_trained_on(run, tmp_path) -> None:
    folder = tmp_path / "run"
    fit(make_training(run), run.stages, folder, CPU, stop_after=1)
    make_eyes(run.task, seed=1)
    make_ids(run.task)
    with pytest.raises(ValueError, match="another image tokenizer"):
        fit(make_training(run), run.stages, folder, CPU, stop_after=1)


def test_a_run_goes_on_with_its_own_ids_though_its_eyes_were_made_again(run, tmp_path) -> None:
    runs.train(run, tmp_path / "run", CPU, stop_after=1)
    make_eyes(run.task, seed=1)
    training = runs.train(run, tmp_path / "run", CPU, stop_after=1)
    ImageIds.read(str(run.task.image_ids)).check(training.model.generation.tokenizer)


def test_a_run_keeps_what_its_ids_and_its_dtype_were(run, tmp_path) -> None:
    folder = tmp_path / "run"
    runs.train(run, folder, CPU, stop_after=1)
    kept = json.loads((folder / "inputs.json").read_text())
    tokenizer = ImageIds.read(str(run.task.image_ids)).tokenizer
    assert kept == {"dtype": "float32", f"image ids of {FIRST}": {"image_tokenizer": tokenizer, "num": 8, "seed": 0}}
    for num, seed, changed in ((9, 0, "'num': 9"), (8, 2, "'seed': 2")):
        make_ids(run.task, num, seed)
        with pytest.raises(ValueError, match=f"run that began with image ids of {FIRST} .*now it is .*{changed}"):
            runs.train(run, folder, CPU, stop_after=1)
    make_ids(run.task)
    with pytest.raises(ValueError, match="run that began with dtype float32, now it is bfloat16"):
        runs.train(run, folder, replace(CPU, weights="bfloat16"), stop_after=1)
    assert json.loads((folder / "inputs.json").read_text()) == kept
    runs.train(run, folder, CPU, stop_after=1)


def test_a_run_of_before_takes_the_inputs_that_it_finds(run, tmp_path) -> None:
    runs.train(run, tmp_path / "run", CPU, stop_after=1)
    (tmp_path / "run" / "inputs.json").unlink()
    runs.train(run, tmp_path / "run", CPU, stop_after=1)
    assert (tmp_path / "run" / "inputs.json").exists()


def test_a_run_is_restored_without_its_ids(run, tmp_path) -> None:
    runs.train(run, tmp_path / "run", CPU, stop_after=1)
    Path(str(run.task.image_ids)).unlink()
    assert restore(tmp_path / "run").config.processor == run.task.processor
