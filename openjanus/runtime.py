"""Where and how numbers are computed: device, weights and threads in one explicit object (floor 0)."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHTS = (*DTYPES, "int8", "int4")  # how matrices are stored for inference (inference/quantisation.py)
SHORT = {"bf16": "bfloat16", "fp16": "float16"}


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

        `num_threads` bounds the CPU threads (0 leaves torch's own choice). Raises ValueError for a device that is not
        there, and for an unknown form of weights.
        """
        if num_threads < 0:
            raise ValueError(f"threads is {num_threads}, expected 0 (torch's own choice) or more")
        if num_threads:
            torch.set_num_threads(num_threads)
        available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        if device == "auto":
            kind = next(name for name, there in available.items() if there)
            reason = f"{kind}: the first of cuda, mps, cpu that is there"
        else:
            kind = device.partition(":")[0]
            if kind not in available:
                raise ValueError(f"device {device!r}: expected auto, cpu, cuda, cuda:N or mps")
            if not available[kind]:
                raise ValueError(f"device {device!r} is not available here: use auto or cpu")
            reason = f"{device}: asked for"
        chosen = SHORT.get(weights, weights)
        if chosen == "auto":
            chosen = "bfloat16" if kind == "cuda" else "float32"
        if chosen not in WEIGHTS:
            raise ValueError(f"weights {weights!r}: expected auto, {', '.join(WEIGHTS)}")
        try:
            return cls(torch.device(kind if device == "auto" else device), chosen, reason)
        except RuntimeError:
            raise ValueError(f"device {device!r}: expected auto, cpu, cuda, cuda:N or mps") from None

    def __str__(self) -> str:
        threads = f", {torch.get_num_threads()} of {os.cpu_count()} cores" if self.device.type == "cpu" else ""
        return f"{self.device} {self.weights}{threads} ({self.reason})"


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
