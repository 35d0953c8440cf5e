"""The queue of the thread that decodes image ids to pictures: finished pictures before unfinished ones, and clients
take turns (round-robin).

Pictures are decoded one at a time: in a batch a convolution may sum in another order, and then a picture's last bits
would depend on the rest of the batch.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from openjanus.runtime import one_core_pool

T = TypeVar("T")
CLIENT: ContextVar[str] = ContextVar("client", default="")  # the client of the current request, set by the guard


class Job(Generic[T]):
    """One call for the decoder thread. result: a future of the event loop."""

    def __init__(self, call: Callable[[], T]):
        self.call, self.has_begun = call, False
        self.result: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def withdraw(self) -> bool:
        """Cancels the job if it has not begun; returns whether it did."""
        return not self.has_begun and self.result.cancel()

    def settle(self, done: "asyncio.Future[T]") -> None:
        if self.result.done():  # it was cancelled
            return
        if done.cancelled():
            self.result.cancel()
        elif error := done.exception():
            self.result.set_exception(error)
        else:
            self.result.set_result(done.result())


class DecodeQueue:
    """A queue for one thread. All but `Job.call` runs in the event loop."""

    def __init__(self) -> None:
        self._pool = one_core_pool(1, "decoder")
        self._whole: dict[str, deque[Job[Any]]] = {}  # jobs by client; the first client is next
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
                queues[client] = jobs  # the last in turn
            if not job.result.cancelled():
                self._begin(job)

    def _begin(self, job: Job[Any]) -> None:
        def end(done: asyncio.Future[Any]) -> None:
            self._is_busy = False
            job.settle(done)
            self._next()

        job.has_begun = self._is_busy = True
        asyncio.get_running_loop().run_in_executor(self._pool, job.call).add_done_callback(end)
