"""Times the parts of a drawing or an answer for openjanus and the peer in turn, and adds them up.

Each side runs in its own process, under the same conditions, so that its peak memory is measured separately; while one
runs, the other waits. The time of a whole drawing is its prefill, its steps at a short, a middle and a full cache (the
time of a step grows linearly with the cache) and its decoding to pixels; each is a median over rounds.
"""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch

from openjanus.bench.sides import Case, Ours, Side, Transformers, synchronise
from openjanus.runtime import set_threads
from openjanus.sequence import Kind

SIDES: dict[str, Callable[[Case], Side]] = {"openjanus": Ours, "transformers": Transformers}
PROBE_BYTES = 2**29


class Remote:
    """A side in its own process."""

    def __init__(self, make: Callable[[], Any]):
        """make: makes the side in its process, where it is sent to."""
        context = multiprocessing.get_context("spawn")
        self.connection, child_connection = context.Pipe()
        self.process = context.Process(target=_serve, args=(child_connection, make), daemon=True)
        self.process.start()
        child_connection.close()
        self._receive()

    def call(self, name: str, *arguments: Any) -> tuple[float, Any]:
        """Runs a method in the process; returns its seconds and its result."""
        self.connection.send((name, arguments))
        return self._receive()

    def _receive(self) -> Any:
        try:
            kind, value = self.connection.recv()
        except EOFError:
            raise ValueError(f"the measured process ended by itself, exit code {self.process.exitcode}") from None
        if kind == "error":
            raise ValueError(value)
        return value

    def close(self) -> int:
        """Ends the process; returns its peak memory in bytes, 0 if the system does not report it."""
        _, peak = self.call("")
        self.process.join()
        return peak


def _serve(connection: Connection, make: Callable[[], Any]) -> None:
    """The loop of a `Remote`'s process."""
    try:
        side = make()
        connection.send(("ready", None))
        while True:
            method, arguments = connection.recv()
            if not method:
                connection.send(("done", (0.0, _peak_bytes(side.device))))
                return
            started = time.perf_counter()
            result = getattr(side, method)(*arguments)
            connection.send(("done", (time.perf_counter() - started, result)))
    except EOFError:  # the parent process has ended
        return
    except Exception as error:
        connection.send(("error", f"{getattr(make, 'func', make).__name__}: {type(error).__name__}: {error}"))


def _peak_bytes(device: torch.device) -> int:
    """Peak memory: of tensors on a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def bandwidth(device: torch.device, num_threads: int = 0) -> float:
    """Read bandwidth of a device in bytes per second, with an array larger than its caches."""
    set_threads(num_threads)
    times = 20 if device.type == "cuda" else 1  # on a GPU, starting a kernel takes as long as one reading
    array = torch.ones(PROBE_BYTES // 4, device=device)
    synchronise(device)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(times):
            array.sum()
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return times * PROBE_BYTES / min(seconds)


@dataclass
class Times:
    """Seconds of one side, a list for each part. steps: seconds of one step, by cache length."""

    prefill: list[float] = field(default_factory=list)
    steps: dict[int, list[float]] = field(default_factory=dict)
    decode: list[float] = field(default_factory=list)

    @property
    def step(self) -> list[float]:
        """Median seconds of a step, from the shortest cache to the longest."""
        return [median(seconds) for _, seconds in sorted(self.steps.items())]

    @property
    def mean_step(self) -> float:
        """Mean seconds of a step over a drawing: trapezoid rule over a short, a middle and a full cache."""
        short, middle, full = self.step
        return (short + 2 * middle + full) / 4

    def whole(self, num_steps: int) -> float:
        """Seconds of a whole request: the prefill gives the first id, steps the others."""
        return median(self.prefill) + (num_steps - 1) * self.mean_step + (median(self.decode) if self.decode else 0)


@dataclass
class Result:
    """num_ids: ids of a picture. peak: bytes of the process, or of tensors on the GPU. bandwidth: bytes per second.
    read:
    bytes that a middle step of openjanus must read."""

    case: Case
    num_ids: int
    times: dict[str, Times]
    peak: dict[str, int]
    bandwidth: float
    read: int

    @property
    def share(self) -> float:
        """The share of the machine's bandwidth that the middle step of openjanus reaches."""
        return self.read / self.times["openjanus"].step[1] / self.bandwidth


def measure(case: Case, peer: Case | None, num_steps: int, rounds: int) -> Result:
    """Times `num_steps` steps in total, over three cache lengths and over the rounds; both sides take turns."""
    cases = {"openjanus": case} | ({"transformers": peer} if peer else {})
    sides = {name: Remote(partial(SIDES[name], each)) for name, each in cases.items()}
    times = {name: Times() for name in sides}
    device = case.source.runtime().device
    probes = [bandwidth(device, case.source.threads)]
    num_ids = sides["openjanus"].call("num_ids")[1]
    each = max(num_steps // (3 * rounds), 1)
    if 3 * each >= num_ids:  # the prefill gives the first id, and a finished request takes no more steps
        raise ValueError(
            f"{3 * each} steps a round, but a picture takes {num_ids - 1}: ask for more rounds or fewer steps"
        )
    for number in range(rounds):
        for name, side in sorted(sides.items(), reverse=bool(number % 2)):
            seconds, start = side.call("prefill")
            times[name].prefill.append(seconds)
            for length in (start, start + num_ids // 2, start + num_ids - each):
                side.call("fill", length, each)
                seconds, _ = side.call("steps", each)
                times[name].steps.setdefault(length, []).append(seconds / each)
            if case.kind == Kind.GENERATE:
                times[name].decode.append(side.call("decode")[0])
        probes.append(bandwidth(device, case.source.threads))
    middle = sorted(times["openjanus"].steps)[1]
    read = sides["openjanus"].call("bytes_per_step", middle)[1]
    peak = {name: side.close() for name, side in sides.items()}
    return Result(case, num_ids, times, peak, median(probes), read)
