"""The one thread that turns image ids into pictures, and who gets it next: whole pictures before unfinished ones, and
among equals one client after another.

Pictures are decoded one at a time: in a batch a convolution may add in another order, and then a picture's last bits
would depend on its company.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from openjanus.runtime import one_core_pool

T = TypeVar("T")
CLIENT: ContextVar[str] = ContextVar("client", default="")  # whose request is answered: set by the guard


class Job(Generic[T]):
    """Something to paint. result: a future of the event loop."""

    def __init__(self, call: Callable[[], T]):
        self.call, self.has_begun = call, False
        self.result: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def withdraw(self) -> bool:
        """Takes the job out if it has not begun; whether that was so."""
        return not self.has_begun and self.result.cancel()

    def settle(self, done: "asyncio.Future[T]") -> None:
        if self.result.done():  # nobody waits any more
            return
        if done.cancelled():
            self.result.cancel()
        elif error := done.exception():
            self.result.set_exception(error)
        else:
            self.result.set_result(done.result())


class Painter:
    """A queue before one thread. All but `Job.call` runs in the event loop."""

    def __init__(self) -> None:
        self._pool = one_core_pool(1, "painter")
        self._whole: dict[str, deque[Job[Any]]] = {}  # by client, whose turn is next first
        self._unfinished: dict[str, deque[Job[Any]]] = {}
        self._is_busy = False

    def submit(self, call: Callable[[], T], is_whole: bool) -> Job[T]:
        job, queues = Job(call), self._whole if is_whole else self._unfinished
        queues.setdefault(CLIENT.get(), deque()).append(job)
        self._next()
        return job

    def stop(self) -> None:
        self._whole.clear()
        self._unfinished.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _next(self) -> None:
        while not self._is_busy and (queues := self._whole or self._unfinished):
            client = next(iter(queues))
            jobs = queues.pop(client)
            job = jobs.popleft()
            if jobs:
                queues[client] = jobs  # behind all others
            if not job.result.cancelled():
                self._begin(job)

    def _begin(self, job: Job[Any]) -> None:
        def end(done: asyncio.Future[Any]) -> None:
            self._is_busy = False
            job.settle(done)
            self._next()

        job.has_begun = self._is_busy = True
        asyncio.get_running_loop().run_in_executor(self._pool, job.call).add_done_callback(end)
