"""Where and how numbers are computed: device, weights and threads in one explicit object (floor 1)."""

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from openjanus.machine import num_cpus

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHTS = (*DTYPES, "int8", "int4")  # how matrices are stored for inference (inference/quantisation.py)
SHORT = {"bf16": "bfloat16", "fp16": "float16"}


def dtype_name(name: str, known: Sequence[str]) -> str:
    """The full name of a dtype or form of weights: `bf16` is bfloat16, `fp16` is float16. Raises ValueError."""
    full = SHORT.get(name, name)
    if full not in known:
        raise ValueError(f"dtype {name!r}: expected one of {', '.join(known)}")
    return full


@dataclass(frozen=True)
class Runtime:
    """The device and the form of the weights that a run uses, with the reason why they were chosen.

    weights: one of `WEIGHTS`; training knows only the dtypes among them.
    """

    device: torch.device
    weights: str
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, or of what is beside them where they are quantised."""
        quantised = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        return DTYPES.get(self.weights, quantised)

    @classmethod
    def choose(cls, device: str = "auto", weights: str = "auto", num_threads: int = 0) -> "Runtime":
        """Picks CUDA, then Apple MPS, then the CPU; bfloat16 on CUDA, float32 elsewhere.

        num_threads: of the CPU; see `set_threads`. Raises ValueError for a device that is not there, and for an unknown
        form of weights.
        """
        set_threads(num_threads)
        counts = {
            "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
            "mps": int(torch.backends.mps.is_available()),
            "cpu": 1,
        }
        if device == "auto":
            chosen_device = torch.device(next(name for name, count in counts.items() if count))
            reason = f"{chosen_device}: the first of cuda, mps, cpu that is there"
        else:
            chosen_device, reason = _parse_device(device, counts), f"{device}: asked for"
        kind = chosen_device.type
        chosen = SHORT.get(weights, weights)
        if chosen == "auto":
            chosen = "bfloat16" if kind == "cuda" else "float32"
        if chosen not in WEIGHTS:
            raise ValueError(f"weights {weights!r}: expected auto, {', '.join(WEIGHTS)}")
        return cls(chosen_device, chosen, reason)

    def __str__(self) -> str:
        threads = f", {torch.get_num_threads()} of {num_cpus()} cores" if self.device.type == "cpu" else ""
        return f"{self.device} {self.weights}{threads} ({self.reason})"


def set_threads(num_threads: int = 0) -> None:
    """Sets how many threads torch computes with on the CPU. 0 stands for OMP_NUM_THREADS or else torch's own choice,
    but no more than the CPUs that this process may use: torch does not know the CPU quota of a container."""
    if num_threads < 0:
        raise ValueError(f"threads is {num_threads}, expected 0 (torch's own choice) or more")
    if num_threads == 0 and "OMP_NUM_THREADS" not in os.environ:
        num_threads = min(torch.get_num_threads(), num_cpus())
    if num_threads not in (0, torch.get_num_threads()):
        torch.set_num_threads(num_threads)


def _parse_device(name: str, counts: Mapping[str, int]) -> torch.device:
    """counts: how many devices of each kind are here."""
    try:
        device = torch.device(name)
        count = counts[device.type]
    except (RuntimeError, KeyError):
        raise ValueError(f"device {name!r}: expected auto, cpu, cuda, cuda:N or mps") from None
    if not count:
        raise ValueError(f"device {name!r} is not available here: use auto or cpu")
    if (device.index or 0) >= count:
        there = f"{device.type}:0" + f" to {device.type}:{count - 1}" * (count > 1)
        raise ValueError(f"device {name!r} is not available here: there is {there}")
    return device


def one_core_pool(num_threads: int, name: str) -> ThreadPoolExecutor:
    """Threads whose torch operations compute on one core each, beside a thread that has the others.

    `torch.set_num_threads` also decides for every thread that has not computed yet. So all threads of the pool start
    here, and the number is set back behind them.
    """
    num_before = torch.get_num_threads()
    all_started = threading.Barrier(num_threads + 1)

    def start() -> None:
        torch.get_num_threads()  # a thread's first call takes the common number over; one's own is set after that
        torch.set_num_threads(1)
        all_started.wait()

    pool = ThreadPoolExecutor(num_threads, name)
    for _ in range(num_threads):
        pool.submit(start)
    all_started.wait()
    torch.set_num_threads(num_before)
    return pool
