"""Device, format of the weights and threads, in one explicit object (floor 1)."""

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
    """The full name of a dtype or format of weights: `bf16` is bfloat16, `fp16` is float16. Raises ValueError."""
    full = SHORT.get(name, name)
    if full not in known:
        raise ValueError(f"dtype {name!r}: expected one of {', '.join(known)}")
    return full


@dataclass(frozen=True)
class Runtime:
    """The device and the format of the weights, with the reason for the choice.

    weights: one of `WEIGHTS`; training supports only the dtypes.
    """

    device: torch.device
    weights: str
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, or of the tensors that are not quantised."""
        quantised = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        return DTYPES.get(self.weights, quantised)

    @classmethod
    def choose(cls, device: str = "auto", weights: str = "auto", num_threads: int = 0) -> "Runtime":
        """Picks CUDA, then Apple MPS, then the CPU; bfloat16 on CUDA, float32 elsewhere.

        num_threads: of the CPU; see `set_threads`. Raises ValueError for a missing device or an unknown
        format of weights.
        """
        set_threads(num_threads)
        counts = {
            "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
            "mps": int(torch.backends.mps.is_available()),
            "cpu": 1,
        }
        if device == "auto":
            chosen_device = torch.device(next(name for name, count in counts.items() if count))
            reason = f"{chosen_device}: the first available of cuda, mps, cpu"
        else:
            chosen_device, reason = _parse_device(device, counts), f"{device}: requested"
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
    """Sets the number of torch's CPU threads. 0: OMP_NUM_THREADS, or else torch's default but at most the CPUs that
    this process may use, because torch ignores the CPU quota of a container."""
    if num_threads < 0:
        raise ValueError(f"threads is {num_threads}, expected 0 (torch's own choice) or more")
    if num_threads == 0 and "OMP_NUM_THREADS" not in os.environ:
        num_threads = min(torch.get_num_threads(), num_cpus())
    if num_threads not in (0, torch.get_num_threads()):
        torch.set_num_threads(num_threads)


def _parse_device(name: str, counts: Mapping[str, int]) -> torch.device:
    """counts: the number of devices of each kind."""
    try:
        device = torch.device(name)
        count = counts[device.type]
    except (RuntimeError, KeyError):
        raise ValueError(f"device {name!r}: expected auto, cpu, cuda, cuda:N or mps") from None
    if not count:
        raise ValueError(f"device {name!r} is not available here: use auto or cpu")
    if (device.index or 0) >= count:
        available = f"{device.type}:0" + f" to {device.type}:{count - 1}" * (count > 1)
        raise ValueError(f"device {name!r} is not available here: there is {available}")
    return device


def one_core_pool(num_threads: int, name: str) -> ThreadPoolExecutor:
    """A thread pool whose torch operations use one core each, while other threads use all.

    `torch.set_num_threads` also affects all threads that have not used torch yet. So all threads of the pool start
    here, and the number is restored afterwards.
    """
    num_before = torch.get_num_threads()
    all_started = threading.Barrier(num_threads + 1)

    def start() -> None:
        torch.get_num_threads()  # a thread's first call copies the global number; it must come before the next line
        torch.set_num_threads(1)
        all_started.wait()

    pool = ThreadPoolExecutor(num_threads, name)
    for _ in range(num_threads):
        pool.submit(start)
    all_started.wait()
    torch.set_num_threads(num_before)
    return pool
