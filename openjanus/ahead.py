"""The data of later steps, made while a step runs, by a thread or by processes of their own (floor 2).

    step ─► worker (step mod workers) ─► micro-batches ─► pinned memory, for a GPU ─► the loop, in the order of steps

Data are functions of the step, so workers share nothing, and any number of them gives the same batches.
"""

import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from openjanus.machine import num_cpus
from openjanus.runtime import one_core_pool

Make = Callable[[int], Sequence[Any]]  # step -> its micro-batches


@contextmanager
def made_ahead(make: Make, steps: range, workers: int, device: torch.device) -> Iterator[Iterator[Sequence[Any]]]:
    """The data of the steps, in order. workers: processes, at most one for each CPU; 0: a thread. An error is raised at
    the step that it belongs to. Raises ValueError if processes are wanted, and the data cannot be sent to one."""
    pins = device.type == "cuda"
    if not workers:
        pool = one_core_pool(1, "data")
        try:
            yield _one_ahead(lambda step: pool.submit(_pinned, make, step, pins), steps)
        finally:
            pool.shutdown()
        return
    loader = DataLoader(
        _Steps(make),
        batch_size=None,
        sampler=steps,
        num_workers=min(workers, num_cpus()),
        collate_fn=_as_it_is,
        pin_memory=pins,
        multiprocessing_context="spawn",  # a fork of a process with threads and a GPU may hang
        worker_init_fn=_leave_signals_to_the_loop,
    )
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's own words about the same error
            made = iter(loader)
    except Exception as error:
        raise ValueError(f"this data cannot be sent to other processes ({error}): use schedule.workers=0") from error
    yield _raised(made)


def _one_ahead(submit: Callable[[int], Future[Sequence[Any]]], steps: range) -> Iterator[Sequence[Any]]:
    following = submit(steps[0]) if steps else None
    for step in steps:
        assert following is not None
        made = following.result()
        following = submit(step + 1) if step + 1 < steps.stop else None
        yield made


def _pinned(make: Make, step: int, pins: bool) -> Sequence[Any]:
    made = make(step)
    return [batch.pin_memory() for batch in made] if pins else made


class _Steps(Dataset[Any]):
    """What a worker makes: the data of a step, or the error that it met."""

    def __init__(self, make: Make):
        self.make = make

    def __getitem__(self, step: int) -> Any:
        try:
            return list(self.make(step))
        except (ValueError, OSError) as error:  # whole, and not with the text of a worker's stack
            return error


def _raised(made: Iterator[Any]) -> Iterator[Sequence[Any]]:
    for batches in made:
        if isinstance(batches, Exception):
            raise batches
        yield batches


def _as_it_is(batches: Any) -> Any:
    return batches


def _leave_signals_to_the_loop(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the loop still needs the data of its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
