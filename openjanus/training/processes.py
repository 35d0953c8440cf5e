"""The processes that train one model together. Here there is one; parallel/ has several, with the same methods."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from openjanus.runtime import Runtime
from openjanus.training import checkpoint


class OneProcess:
    """Trains alone. Process 0 writes what a run leaves; the others only compute."""

    rank, size = 0, 1

    def join(self, training: Any, runtime: Runtime) -> Any:
        """The training with this process's part of the model and of the data."""
        training.model.to(runtime.device)
        return training

    def fill(self, made: Sequence[Any], blank: Any) -> Sequence[Any]:
        """The micro-batches of a step, as many as every process has; `blank()` makes one without targets."""
        return made

    def touch(self, model: nn.Module) -> Tensor | float:
        """Zero, with a gradient for every parameter that another process may have used in this micro-batch."""
        return 0.0

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """The sum over all processes of each number."""
        return list(numbers)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Whether some process says so, for each flag."""
        return flags

    def measures(self, measures: dict[str, tuple[float, int]]) -> dict[str, tuple[float, int]]:
        """The sums and counts of all processes."""
        return measures

    def whole(self, tensor: Tensor) -> Tensor:
        """A tensor that the processes hold parts of, in full."""
        return tensor

    def wait(self) -> None:
        """Until all processes are here."""

    @contextmanager
    def evaluating(self, model: nn.Module) -> Iterator[None]:
        """The model can be called part by part inside."""
        yield

    def save(self, folder: Path, model: nn.Module, optimizer: Any, state: dict[str, Any], names: Any) -> None:
        """Writes a checkpoint (training/checkpoint.py)."""
        checkpoint.save(folder, model, optimizer, state, names)

    def restore_model(self, newest: Path, model: nn.Module, names: Any) -> None:
        checkpoint.restore_model(newest, model, names)

    def restore_optimizer(self, newest: Path, optimizer: Any) -> None:
        checkpoint.restore_optimizer(newest, optimizer)


ONE = OneProcess()
