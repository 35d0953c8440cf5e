"""Data made ahead by processes: the batches of a thread, in order, with errors of one line. A step never waits."""

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from openjanus.ahead import made_ahead
from openjanus.data.config import DataConfig
from openjanus.training import checkpoint
from openjanus.training.janus import JanusTraining, janus_training
from openjanus.training.loop import Schedule, Training, _train_step, fit
from openjanus.training.stage import Stage, choose_trainable, make_optimizer
from tests import tiny
from tests.readers.files import write_jsonl, write_pictures
from tests.training.test_loop import CPU, Slide

DEVICE = torch.device("cpu")


@dataclass
class Numbers:
    """Step -> the step and the process that made it. Step 3 is an error."""

    wrong: int = -1

    def __call__(self, step: int) -> Sequence[torch.Tensor]:
        if step == self.wrong:
            raise ValueError(f"step {step} is wrong")
        return [torch.tensor([step, os.getpid()])]


@dataclass
class SameSteps:
    """Data that can be sent to other processes."""

    def __call__(self, stage: Stage, step: int) -> Sequence[torch.Tensor]:
        return [torch.tensor(1), torch.tensor(2)]


@dataclass
class Interrupting(SameSteps):
    """The workers get the Ctrl-C of a terminal while they work."""

    def __call__(self, stage: Stage, step: int) -> Sequence[torch.Tensor]:
        os.kill(os.getpid(), signal.SIGINT)
        return super().__call__(stage, step)


def test_processes_give_the_steps_in_order(monkeypatch) -> None:
    monkeypatch.setattr("openjanus.ahead.num_cpus", lambda: 2)
    with made_ahead(Numbers(), range(2, 9), 5, DEVICE) as data:
        made = [batch.tolist() for (batch,) in data]
    assert [step for step, _ in made] == list(range(2, 9))
    makers = [process for _, process in made]
    assert len(set(makers)) == 2 and os.getpid() not in makers
    with made_ahead(Numbers(), range(3), 0, DEVICE) as data:
        assert [batch.tolist() for (batch,) in data] == [[step, os.getpid()] for step in range(3)]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_comes_at_its_step_and_in_one_line(workers) -> None:
    seen = []
    with made_ahead(Numbers(wrong=2), range(5), workers, DEVICE) as data, pytest.raises(ValueError) as error:
        for (batch,) in data:
            seen.append(int(batch[0]))
    assert seen == [0, 1] and str(error.value) == "step 2 is wrong"


def test_data_that_cannot_be_sent_is_told() -> None:
    with (
        pytest.raises(ValueError, match=r"cannot be sent to other processes .* use schedule\.workers=0"),
        made_ahead(lambda step: [torch.tensor(step)], range(3), 1, DEVICE),
    ):
        pass


def users_training(folder: Path) -> tuple[Training, Stage]:
    """Drawings, descriptions and questions of a user's data, and of the built-in world."""
    start = tiny.checkpoint()
    config = JanusTraining("", "", {"mine": DataConfig(str(folder), held_out=0.0)}, row_tokens=128)
    trainable = ("*", "!generation.tokenizer.*")
    return janus_training(config, 0, start), Stage("s", 4, 1e-3, {"mine": 3, "emoji.questions": 1.5}, trainable)


@pytest.fixture
def data(tmp_path) -> Path:
    write_pictures(tmp_path / "data", range(4))
    rows = [{"file_name": f"{n}.png", "text": f"{n} red apples"} for n in range(4)]
    write_jsonl(tmp_path / "data" / "metadata.jsonl", rows)
    return tmp_path / "data"


def test_a_training_with_processes_equals_one_with_a_thread_bit_for_bit(data, tmp_path) -> None:
    weights, logs = [], []
    for workers in (0, 2):
        torch.manual_seed(0)
        training, stage = users_training(data)
        folder = tmp_path / f"workers {workers}"
        fit(training, (stage,), folder, CPU, schedule=Schedule(log_steps=1, workers=workers))
        weights.append({name: t.clone() for name, t in training.model.state_dict().items()})
        logs.append([json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()])
    assert logs[0] == logs[1] and len(logs[0]) == 4
    assert tiny.equal_trees(*weights)


def test_data_that_needs_trained_parameters_is_not_made_ahead(data, tmp_path) -> None:
    """The image tokenizer is trained: processes would encode with an old one."""
    weights = []
    for workers in (0, 2):
        torch.manual_seed(0)
        training, stage = users_training(data)
        stage = replace(stage, num_steps=2, trainable=("*",))
        fit(training, (stage,), tmp_path / str(workers), CPU, schedule=Schedule(workers=workers))
        weights.append({name: t.clone() for name, t in training.model.state_dict().items()})
    assert tiny.equal_trees(*weights)


def test_ctrl_c_leaves_the_processes_to_the_loop(tmp_path) -> None:
    training = Slide()
    training.data = Interrupting()
    fit(training, (Stage("s", 3, 0.1, {"a": 1}),), tmp_path, CPU, schedule=Schedule(workers=1))
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest is not None and newest.name == "00000003"


class NoWaiting(TorchDispatchMode):
    """Refuses what asks a device for values: on a GPU it would wait for all that was begun before."""

    WAITS = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "unique", "masked_select")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        indices = [i for i in tree_leaves(args[1:]) if isinstance(i, torch.Tensor)] if name.startswith("index") else []
        assert name not in self.WAITS and not any(i.dtype == torch.bool for i in indices), (
            f"{name} waits for the device"
        )
        return func(*args, **(kwargs or {}))


def test_the_guard_of_the_next_test_sees_what_waits() -> None:
    for waits in (lambda: float(torch.ones(1)), lambda: bool(torch.ones(1)), lambda: torch.ones(2).nonzero(),
                  lambda: torch.ones(2)[torch.ones(2) > 0]):  # fmt: skip
        with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
            waits()


def test_a_step_never_waits_for_the_device(data) -> None:
    training, stage = users_training(data)
    trainable = choose_trainable(training.model, stage.trainable)
    optimizer = make_optimizer(stage, trainable)
    made = training.data(stage, 0)
    assert {kind for batch in made for kind in batch.targets} and any(batch.pixels is not None for batch in made)
    for dtype in ("float32", "bfloat16"):
        runtime = replace(CPU, weights=dtype)
        with NoWaiting():
            _train_step(training, stage, 0, 0, made, trainable, optimizer, runtime)
