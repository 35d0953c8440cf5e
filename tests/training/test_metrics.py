"""The figures of a training: a run that stops and goes on writes the lines of one that never stopped."""

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from openjanus import config as configs
from openjanus.training.loop import Schedule, fit
from openjanus.training.metrics import MetricsLog
from openjanus.training.run import make_training
from openjanus.training.stage import Stage
from tests.training.test_loop import CPU, Slide, janus_task, run_of  # noqa: F401  (a fixture)

EVERY_FOUR = Schedule(log_steps=4)


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "per_s" not in name} for line in found]  # no speeds


@pytest.mark.parametrize("kind", ["tokenizer", "janus"])
def test_the_first_line_after_a_resume_averages_all_its_steps(kind, janus_task, tmp_path) -> None:  # noqa: F811
    run = run_of(kind, janus_task)
    fit(make_training(run), run.stages, tmp_path / "whole", CPU, schedule=EVERY_FOUR)
    for stop_after in (1, 1, 1, None):
        fit(make_training(run), run.stages, tmp_path / "parts", CPU, schedule=EVERY_FOUR, stop_after=stop_after)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    assert len(lines(tmp_path / "whole")) == (2 if kind == "tokenizer" else 3)


def test_seconds_of_the_steps_before_a_stop_count(tmp_path) -> None:
    log = MetricsLog(tmp_path, 0)
    log.add({"loss": (torch.tensor(6.0), 2)})
    log.since -= 10
    waiting = json.loads(json.dumps(log.state()))
    log.close()
    resumed = MetricsLog(tmp_path, 1, waiting)
    resumed.add({"loss": (torch.tensor(2.0), 2)})
    line = resumed.flush(2, "s", 0.1)
    resumed.close()
    assert line["loss"] == 2.0 and line["seconds_per_step"] == pytest.approx(5, abs=1)


def test_tensorboard_keeps_every_point_over_resumes(tmp_path) -> None:
    stages = (Stage("s", 6, 0.1, {"a": 1}),)
    for stop_after in (2, 1, None):
        fit(Slide(), stages, tmp_path, CPU, schedule=Schedule(log_steps=1), stop_after=stop_after)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def test_tensorboard_drops_points_past_the_checkpoint(tmp_path) -> None:
    for step, steps in ((0, range(1, 6)), (3, range(4, 6))):
        log = MetricsLog(tmp_path, step)
        for number in steps:
            log.write(number, "s", {"loss": 10 * step + number})
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1), (2, 2), (3, 3), (4, 34), (5, 35)]


def test_a_full_disk_is_named_and_leaves_the_log_whole(tmp_path, monkeypatch) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')

    def full(path: Path, *_, **__) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match=r"metrics.jsonl: cannot be written \(No space left on device\)"):
            MetricsLog(tmp_path, 1)
        with pytest.raises(OSError, match=r"stage.json: cannot be written \(No space left on device\)"):
            configs.save(Stage("s", 1, 0.1, {"a": 1}), tmp_path / "stage.json")
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    log = MetricsLog(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match=r"metrics.jsonl: cannot be written \(No space left on device\)"):
            log.write(2, "s", {"loss": 1.0})
    log.close()
