"""A training that is carried to another machine in parts goes on there as if it had never moved."""

import json

import pytest
import torch

from openjanus.eyes.tokenizer import TokenizerTraining
from openjanus.runtime import Runtime
from openjanus.training.run import Run, train
from openjanus.training.stage import Stage
from scripts import carry_run
from tests import tiny

CPU = Runtime(torch.device("cpu"), "float32", "test")
TASK = TokenizerTraining(tiny.IMAGE_TOKENIZER, perceptual_weight=0.0, discriminator_width=4)
RUN = Run("tiny", TASK, (Stage("all", 4, 1e-3, {"emoji.pictures": 2}),))


@pytest.fixture
def halfway(tmp_path, monkeypatch):
    """A folder with a training that has taken two of its four steps, each with a checkpoint."""
    monkeypatch.setattr(carry_run, "PART_BYTES", 100_000)
    for _ in range(2):
        train(RUN, tmp_path / "there" / "tiny", CPU, stop_after=1)
    return tmp_path / "there"


def test_a_carried_training_goes_on_bit_for_bit(halfway, tmp_path) -> None:
    carry_run.pack(halfway, tmp_path / "parts")
    parts = sorted((tmp_path / "parts").glob("*.part"))
    assert len(parts) > 3 and all(path.stat().st_size <= 100_000 for path in parts)
    carry_run.unpack(tmp_path / "parts", tmp_path / "here")
    assert [path.name for path in (tmp_path / "here" / "tiny" / "checkpoints").iterdir()] == ["00000002"]
    carried = train(RUN, tmp_path / "here" / "tiny", CPU).model.state_dict()
    stayed = train(RUN, halfway / "tiny", CPU).model.state_dict()
    assert tiny.equal_trees(carried, stayed)


def test_a_part_that_is_missing_or_damaged_is_named(halfway, tmp_path) -> None:
    carry_run.pack(halfway, tmp_path / "parts")
    part = tmp_path / "parts" / "0001.part"
    data = part.read_bytes()
    part.write_bytes(data[:-1] + b"?")
    with pytest.raises(ValueError, match=r"0001\.part: damaged"):
        carry_run.unpack(tmp_path / "parts", tmp_path / "here")
    part.unlink()
    with pytest.raises(ValueError, match=r"0001\.part: missing"):
        carry_run.unpack(tmp_path / "parts", tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_nothing_is_overwritten_and_a_folder_without_a_training_is_told(halfway, tmp_path) -> None:
    carry_run.pack(halfway, tmp_path / "parts")
    for wrong in (
        lambda: carry_run.pack(halfway, tmp_path / "parts"),
        lambda: carry_run.unpack(tmp_path / "parts", halfway),
    ):
        with pytest.raises(ValueError, match="not empty"):
            wrong()
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="no training in it"):
        carry_run.pack(tmp_path / "other", tmp_path / "more")
    assert set(json.loads((tmp_path / "parts" / "parts.json").read_text())) == {
        path.name for path in (tmp_path / "parts").glob("*.part")
    }
