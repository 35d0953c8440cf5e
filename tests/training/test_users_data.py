"""A user's data in a training: the same documents as from any other source, and errors before the first step."""

import json

import pytest
import torch

from openjanus.data.config import DataConfig
from openjanus.data.sources import SOURCES
from openjanus.processing.message import Message
from openjanus.runtime import Runtime
from openjanus.training.janus import JanusTraining, janus_training
from openjanus.training.loop import Schedule, fit
from openjanus.training.run import Run, make_training
from openjanus.training.stage import Stage
from tests import tiny
from tests.readers.files import picture, write_jsonl, write_pictures


def test_users_data_is_trained_as_the_same_conversations(tmp_path, monkeypatch) -> None:
    """Captions, questions, an edit and a text of files give the same documents as a source that makes them."""
    write_pictures(tmp_path, range(3))
    write_jsonl(
        tmp_path / "data.jsonl",
        [
            {"input_image": "0.png", "output_image": "1.png", "prompt": "make it blue"},
            {"image": "2.png", "question": "what is it?", "answer": "a cat"},
            {"text": "two red apples"},
        ],
    )
    pictures = [picture(n) for n in range(3)]
    same = [
        [Message("user", [pictures[0], "make it blue"]), Message("assistant", [pictures[1]])],
        [Message("user", [pictures[2], "what is it?"]), Message("assistant", "a cat")],
        [Message("text", "two red apples")],
    ]
    monkeypatch.setitem(SOURCES, "same", (lambda split, seed: lambda index: same[order[index % 3]], "conversations"))
    start = tiny.checkpoint()
    data = {"mine": DataConfig(str(tmp_path / "data.jsonl"), held_out=0.0)}
    training = janus_training(JanusTraining("", "", data, row_tokens=64), 0, start)
    mine = training.data.source("mine")
    order = [["blue" in str(mine(i)), "what" in str(mine(i)), "two" in str(mine(i))].index(True) for i in range(3)]
    assert sorted(order) == [0, 1, 2]
    stages = [Stage("s", 1, 1e-3, {name: 1.5}) for name in ("mine", "same")]
    other = janus_training(JanusTraining("", "", row_tokens=64), 0, start)
    for step, count in ((0, 1), (1, 2)):
        got, expected = training.data(stages[0], step), other.data(stages[1], step)
        assert sum(int((batch.position == 0).sum()) for batch in got) >= count
        for a, b in zip(got, expected, strict=True):
            for name in ("tokens", "kind", "target", "document"):
                assert torch.equal(getattr(a, name), getattr(b, name))
            assert (a.pixels is None and b.pixels is None) or torch.equal(a.pixels, b.pixels)
    assert training.inputs() == {"examples of mine": 3}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"mine": DataConfig()}, "stage s needs data for 'mine': give data=FOLDER"),
        ({"mine": DataConfig("x"), "captions": DataConfig()}, "needs data for 'captions': give data=FILE, where FILE"),
        ({}, "unknown source 'captions'; known: emoji.drawings"),
    ],
)
def test_data_that_is_not_given_is_told_before_anything_is_built(data, message) -> None:
    mixture = {"mine": 1.0} if data.keys() == {"mine"} else {"captions": 1.0}
    run = Run("r", JanusTraining("nowhere", data=data), (Stage("s", 1, 1e-3, mixture),))
    with pytest.raises(ValueError, match=message):
        make_training(run)


def test_the_log_has_speeds_and_padding(tmp_path) -> None:
    """Two steps: the sizes that it counts are those of the batches."""
    start = tiny.checkpoint()
    training = janus_training(JanusTraining("", "", row_tokens=64), 0, start)
    stage = Stage("s", 2, 1e-3, {"emoji.questions": 2, "emoji.drawings": 3})
    fit(training, (stage,), tmp_path, Runtime.choose("cpu"), schedule=Schedule(log_steps=2))
    (line,) = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    batches = [batch for step in range(2) for batch in training.data(stage, step)]
    tokens = sum(int((batch.document >= 0).sum()) for batch in batches)
    assert line["tokens_per_second"] * line["seconds_per_step"] == pytest.approx(tokens / 2, rel=1e-3)
    assert line["pictures_per_second"] * line["seconds_per_step"] == pytest.approx(5, rel=1e-3)
    positions = sum(batch.tokens.numel() for batch in batches)
    assert line["padding"] == pytest.approx(1 - tokens / positions, abs=1e-5)
