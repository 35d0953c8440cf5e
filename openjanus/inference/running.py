"""Requests run to their end without a server: all in one batch, or by speculation one after the other."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from openjanus.inference.request import Request
from openjanus.inference.scheduler import Scheduler
from openjanus.inference.speculative import Speculation
from openjanus.model.janus import Janus
from openjanus.sequence import num_tokens

Progress = Callable[[int, int], None]  # (steps done, steps in all)
MAX_ROWS = 128  # of the KV cache that one call may use: more pictures wait for these to be finished


def check_room(model: Janus, requests: Sequence[Request]) -> None:
    """Raises ValueError for a request that is too long for the model."""
    limit = model.config.language_model.max_positions
    for request in requests:
        if request.num_positions > limit:
            raise ValueError(
                f"the prompt takes {num_tokens(request.documents[0])} positions, the answer up to "
                f"{request.num_new}, but the model has {limit}: shorten it"
            )


def run_together(make_scheduler: Callable[[int, int], Scheduler], requests: Sequence[Request]) -> Iterator[None]:
    """Runs requests to their end, together as far as `MAX_ROWS` allows; yields after every step.

    make_scheduler: (rows, positions) -> an empty batch. Raises what a request fails with.
    """
    num_rows = min(sum(r.num_rows for r in requests), max(MAX_ROWS, *(r.num_rows for r in requests), 0))
    scheduler = make_scheduler(num_rows, max(r.num_positions for r in requests))
    for request in requests:
        scheduler.submit(request)
    running = True
    while running:
        running = scheduler.step()
        for request in requests:
            if request.error is not None:
                raise request.error
        yield


def speculate(model: Janus, requests: Sequence[Request], window: int) -> Iterator[None]:
    """Runs drawings to their end, one request after the other; yields after every pass."""
    for request in requests:
        speculation = Speculation(model, request, window)
        while not request.finished:
            speculation.step()
            yield


def finished(
    steps: Iterable[None], requests: Sequence[Request], total: int, progress: Progress | None
) -> Iterator[tuple[int, Tensor]]:
    """The number of each drawing and its image ids [n, N], as soon as they are whole. total: ids of a picture."""
    waiting = dict(enumerate(requests))
    for _ in steps:
        if progress is not None:
            done = total * (len(requests) - len(waiting)) + sum(len(r.ids) for r in waiting.values())
            progress(done // len(requests), total)
        for number in [number for number, request in waiting.items() if request.finished]:
            request = waiting.pop(number)
            yield number, torch.stack(request.ids, dim=1)
            request.ids.clear()
