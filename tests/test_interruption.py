"""Ctrl-C and SIGTERM: what was computed is saved, a second one ends at once, and previews are not waited for."""

import signal
import threading
from pathlib import Path

import pytest
import torch

from openjanus.interruption import Interruption
from openjanus.training import checkpoint
from openjanus.training.loop import Schedule, fit
from openjanus.training.stage import Stage
from tests.training.test_loop import CPU, Slide

STAGES = (Stage("s", 6, 0.1, {"a": 1}),)
WATCHED = Schedule(log_steps=1, evaluate_steps=4)


class Interrupted(Slide):
    """Sends itself signals while it computes a step."""

    def __init__(self, step: int, *signals: int) -> None:
        super().__init__()
        self.step, self.signals = step, signals

    def loss_of(self, model: torch.nn.Module, batch: torch.Tensor, step: int):
        if step == self.step and batch == 1:
            for number in self.signals:
                signal.raise_signal(number)
        return super().loss_of(model, batch, step)


@pytest.fixture(autouse=True)
def handlers_of_a_terminal():
    """Ctrl-C as it is in a terminal, whatever runs the tests; afterwards the handlers are those of before."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    wanted = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == wanted
    signal.signal(signal.SIGINT, before)


def steps_saved(folder: Path) -> list[int]:
    return sorted(int(p.name) for p in (folder / "checkpoints").glob("0*"))


def test_ctrl_c_finishes_the_step_and_saves_it(tmp_path, capfd) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(Interrupted(2, signal.SIGINT), STAGES, tmp_path, CPU, schedule=WATCHED)
    assert steps_saved(tmp_path) == [3]
    out, err = capfd.readouterr()
    assert "finishing the step, then saving" in err
    assert "saved at step 3; the same command goes on from there" in out


def test_sigterm_saves_and_exits_with_143(tmp_path) -> None:
    with pytest.raises(SystemExit) as stop:
        fit(Interrupted(0, signal.SIGTERM), STAGES, tmp_path, CPU, schedule=WATCHED)
    assert stop.value.code == 143
    assert steps_saved(tmp_path) == [1]


def test_an_interrupted_run_goes_on_to_the_same_result(tmp_path) -> None:
    whole = Slide()
    parts = Interrupted(3, signal.SIGINT)
    parts.model.load_state_dict(whole.model.state_dict())
    fit(whole, STAGES, tmp_path / "whole", CPU)
    with pytest.raises(KeyboardInterrupt):
        fit(parts, STAGES, tmp_path / "parts", CPU)
    resumed = Slide()
    fit(resumed, STAGES, tmp_path / "parts", CPU)
    assert resumed.model.weight.item() == whole.model.weight.item()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(tmp_path, number) -> None:
    training = Interrupted(2, signal.SIGINT, number)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        fit(training, STAGES, tmp_path, CPU, schedule=WATCHED)
    assert set(training.lost) == {0, 1} and steps_saved(tmp_path) == []


def test_a_second_signal_while_saving_leaves_the_checkpoint_before(tmp_path, monkeypatch) -> None:
    fit(Slide(), STAGES, tmp_path, CPU, stop_after=2)
    write = checkpoint.save_file

    def interrupted(tensors, path: Path) -> None:
        write(tensors, path)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(checkpoint, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(Interrupted(3, signal.SIGINT), STAGES, tmp_path, CPU)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["00000002"]


def test_a_preview_is_announced_and_made_after_the_checkpoint(tmp_path, capsys) -> None:
    seen: list[tuple[int, list[int]]] = []

    def look(model, step: int, folder: Path) -> dict[str, float]:
        seen.append((step, steps_saved(tmp_path)))
        return {"score": 1.0}

    fit(Slide(), STAGES, tmp_path, CPU, [look], WATCHED)
    assert seen == [(4, [4]), (6, [4, 6])]
    out = capsys.readouterr().out
    assert "s 4/6  making previews" in out and "s 6/6  making previews" in out


def test_a_signal_during_a_preview_ends_at_once_and_loses_nothing(tmp_path) -> None:
    after: list[int] = []

    def look(model, step: int, folder: Path) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        after.append(step)
        return {}

    with pytest.raises(KeyboardInterrupt):
        fit(Slide(), STAGES, tmp_path, CPU, [look], WATCHED)
    assert steps_saved(tmp_path) == [4] and not after


def test_a_failing_preview_loses_nothing(tmp_path) -> None:
    def fail(model, step: int, folder: Path) -> dict[str, float]:
        raise RuntimeError("no picture")

    with pytest.raises(RuntimeError, match="no picture"):
        fit(Slide(), STAGES, tmp_path, CPU, [fail], Schedule(evaluate_steps=100))
    assert steps_saved(tmp_path) == [6]


def test_a_signal_that_the_shell_ignores_stays_ignored(tmp_path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        fit(Interrupted(2, signal.SIGINT), STAGES, tmp_path, CPU)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert steps_saved(tmp_path) == [6]


def test_a_training_in_another_thread_leaves_signals_alone(tmp_path) -> None:
    found: list[object] = []

    def run() -> None:
        with Interruption():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
