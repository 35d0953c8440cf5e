"""The figures of a training: metrics.jsonl, and TensorBoard where it is installed.

A resumed run writes the same lines as an uninterrupted one: lines after the checkpoint are removed, and pending
measures are kept in the checkpoint.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from openjanus.config import write_text
from openjanus.training.processes import ONE, OneProcess

# name -> (sum, count): logged as sum / count
Measures = dict[str, tuple[Tensor | float, int]]
MFU = "mfu"  # a size in seconds: how long the useful work of a step would take as plain products (flops.py)
PER_STEP = "per step: "  # prefix of sizes of a step: tokens, pictures, positions with padding


class MetricsLog:
    """Collects the measures of steps until `flush` writes their means as one line."""

    def __init__(self, folder: Path, step: int, waiting: Mapping[str, Any] | None = None, processes: OneProcess = ONE):
        """`step`: of the checkpoint that the run resumes from; `waiting`: its `state`. Process 0 writes."""
        self.path, self.processes = folder / "metrics.jsonl", processes
        waiting = waiting or {"measures": {}, "num_steps": 0, "seconds": 0.0}
        self.measures: Measures = {}
        self.board = None
        if not processes.rank:
            lines = self.path.read_text(errors="replace").splitlines() if self.path.exists() else []
            write_text(self.path, "".join(line + "\n" for line in lines if _step_of(line) <= step))
            self.measures = {name: (value, count) for name, (value, count) in waiting["measures"].items()}
            self.board = _tensorboard(folder / "tensorboard", step)
        self.num_steps = waiting["num_steps"]
        self.since = time.monotonic() - waiting["seconds"]

    def state(self) -> dict[str, Any]:
        """The pending measures, for a checkpoint."""
        return {"measures": self._of_all(), "num_steps": self.num_steps, "seconds": time.monotonic() - self.since}

    def add(self, measures: Measures) -> None:
        add_measures(self.measures, measures)
        self.num_steps += 1

    def flush(self, step: int, stage: str, lr: float) -> dict[str, Any]:
        """Writes the means since the last line; returns the line."""
        means = {name: value / max(count, 1) for name, (value, count) in self._of_all().items()}
        seconds = (time.monotonic() - self.since) / max(self.num_steps, 1)
        sizes = {name.removeprefix(PER_STEP): means.pop(name) for name in list(means) if name.startswith(PER_STEP)}
        rates = {name: size / seconds for name, size in sizes.items() if name != "positions"}
        speeds = {name if name == MFU else f"{name}_per_second": rate for name, rate in rates.items()}
        if "positions" in sizes:
            speeds["padding"] = 1 - sizes["tokens"] / sizes["positions"]
        line = self.write(step, stage, {**means, "lr": lr, "seconds_per_step": seconds, **speeds})
        self.measures, self.num_steps, self.since = {}, 0, time.monotonic()
        return line

    def _of_all(self) -> dict[str, tuple[float, int]]:
        """The sums and counts of all processes so far."""
        return self.processes.measures({name: (float(value), count) for name, (value, count) in self.measures.items()})

    def write(self, step: int, stage: str, figures: Mapping[str, float]) -> dict[str, Any]:
        """Writes figures as a separate line. Raises OSError naming the folder if the disk is full."""
        line = {"step": step, "stage": stage, **{name: round(float(v), 6) for name, v in figures.items()}}
        if figures and not self.processes.rank:
            try:
                with self.path.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                for name, value in figures.items():
                    if self.board is not None:
                        self.board.add_scalar(name, value, step)
            except OSError as error:
                raise OSError(f"{self.path}: cannot be written ({error.strerror})") from error
        return line

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def add_measures(total: Measures, more: Measures) -> None:
    """Adds the sums and counts of `more` to those of `total`."""
    for name, (value, count) in more.items():
        before = total.get(name, (0.0, 0))
        total[name] = (before[0] + value, before[1] + count)


def _step_of(line: str) -> float:
    """The step of a line; infinity for a truncated line."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # an extra; metrics.jsonl has the same figures
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)  # the first step that is written again
