"""The engine thread, and its interface to the event loop.

    handlers (event loop) ── Ticket ─► inbox ─► engine thread: Scheduler.step, step, step ...
            ▲                                        │
            └──── one call_soon_threadsafe a step ◄──┘   wakes the tickets with new ids

Only the engine thread uses the scheduler. It never waits for a client: ids accumulate in their request, which has at
most `num_new` of them, until the handler reads them. The queue is counted in the event loop.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from openjanus.inference.engine import Engine
from openjanus.inference.scheduler import Request
from openjanus.sequence import Kind
from openjanus.serve.errors import RETRY, ApiError, invalid, of_fault
from openjanus.serve.limits import Limits
from openjanus.serve.log import log_fault
from openjanus.serve.metrics import Metrics

T = TypeVar("T")
logger = logging.getLogger("openjanus.serve")


class Ticket:
    """The state of one request, for its handler.

    tokens: text ids so far. num_ids: number of text or image ids so far. is_done: all ids are there, without an error.
    wake_at: numbers of ids at which a drawing's handler is woken; an answer's handler is woken at each id.
    """

    def __init__(self) -> None:
        self.request: Request | None = None
        self.wake_at: Collection[int] = ()
        self.tokens: list[int] = []
        self.num_ids = 0  # engine thread
        self.arrived = time.monotonic()
        self.is_running = self.is_done = False
        self.failure: ApiError | None = None
        self._event, self._has_failed, self._has_ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def changed(self) -> None:
        """Waits for new ids or the end. Raises the ApiError that ended the request."""
        if self.failure is None:
            await self._event.wait()
            self._event.clear()
        if self.failure is not None:
            raise self.failure

    async def during(self, work: Awaitable[T]) -> T:
        """Returns the result of `work`. If the request fails meanwhile, cancels `work` and raises the ApiError."""
        doing, failing = asyncio.ensure_future(work), asyncio.ensure_future(self._has_failed.wait())
        try:
            await asyncio.wait({doing, failing}, return_when=asyncio.FIRST_COMPLETED)
            if self.failure is not None:
                raise self.failure
            return doing.result()
        finally:
            failing.cancel()
            doing.cancel()
            if doing.done() and not doing.cancelled():
                doing.exception()  # retrieved, or asyncio would log that it never was

    async def done_or(self, work: "asyncio.Future[Any]") -> None:
        """Waits for `work`, or for the end of the request, whichever comes first. Neither is cancelled."""
        ending: asyncio.Future[Any] = asyncio.ensure_future(self._has_ended.wait())
        try:
            await asyncio.wait({work, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()

    def fail(self, failure: ApiError) -> None:
        """Ends the request early, for its handler and in the batch."""
        self.failure = self.failure or failure
        if self.request is not None:
            self.request.cancel()
        self._event.set()
        self._has_failed.set()
        self._has_ended.set()

    def wake(self, is_done: bool) -> None:
        assert self.request is not None
        if self.request.error is not None and self.failure is None:
            self.failure = of_fault(self.request.error)
            self._has_failed.set()
        self.is_done = is_done and self.failure is None
        if is_done:
            self._has_ended.set()
        self._event.set()

    def take_new_ids(self) -> int:
        """In the engine thread, after a step: copies the new ids; returns their number."""
        assert self.request is not None
        num_before, self.num_ids = self.num_ids, len(self.request.ids)
        self.tokens += self.request.text_ids[num_before:]
        return self.num_ids - num_before


class Worker:
    """The queue of the server: admits requests, runs them in the engine thread, and ends them.

    Call `start` and all public methods in the event loop's thread.
    """

    def __init__(self, engine: Engine, num_rows: int, num_positions: int, limits: Limits, metrics: Metrics):
        self.limits, self.metrics = limits, metrics
        self.scheduler = engine.scheduler(num_rows, num_positions)
        self.is_accepting, self.is_alive = False, False
        self.open: set[Ticket] = set()
        self.num_waiting = 0
        self._inbox: deque[Ticket] = deque()
        self._news = threading.Condition()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        metrics.watch(
            lambda: self.num_waiting, lambda: len(self.open), lambda: len(self.scheduler.owner),
            self.scheduler.cache.num_rows,
        )  # fmt: skip

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.is_accepting = self.is_alive = True
        self._thread.start()

    @contextmanager
    def admit(self) -> Iterator[Ticket]:
        """Gives a place in the queue, or raises ApiError 429 or 503 at once. When the context ends, the request leaves
        the batch within a step."""
        if not self.is_accepting or not self.is_alive:
            raise shutting_down() if self.is_alive else ApiError(503, "the engine has failed", "engine_failed")
        if self.num_waiting >= self.limits.max_waiting:
            raise ApiError(
                429, f"{self.num_waiting} requests wait already: try again later", "queue_full", headers=RETRY
            )
        ticket = Ticket()
        self.open.add(ticket)
        self.num_waiting += 1
        seconds = self.limits.request_seconds
        timeout = ApiError(504, f"the request took longer than {seconds:g} seconds", "timeout")
        timer = self._loop.call_later(seconds, ticket.fail, timeout)
        try:
            yield ticket
        finally:
            timer.cancel()
            self.open.discard(ticket)
            self._starts(ticket)
            if ticket.request is not None:
                ticket.request.cancel()

    def submit(self, ticket: Ticket, request: Request, wake_at: Collection[int] = ()) -> None:
        """Hands a ticket's request to the engine thread."""
        if ticket.failure is not None:
            raise ticket.failure
        ticket.request, ticket.wake_at = request, wake_at
        with self._news:
            self._inbox.append(ticket)
            self._news.notify()

    def drain(self, grace_seconds: float) -> None:
        """Accepts no new requests, and ends the running ones after the grace time."""
        if self.is_accepting:
            self.is_accepting = False
            self._loop.call_later(grace_seconds, self.end_all)

    def stop(self) -> None:
        """Ends the engine thread."""
        self.is_accepting = False
        with self._news:
            self._is_stopped = True
            self._news.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    @property
    def is_stepping(self) -> bool:
        """Whether the engine thread still runs."""
        return self._thread.is_alive()

    def end_all(self) -> None:
        """Ends all running requests with the error of a shutdown."""
        self._end_all(shutting_down)

    def _end_all(self, reason: Callable[[], ApiError]) -> None:
        for ticket in list(self.open):
            ticket.fail(reason())

    def _starts(self, ticket: Ticket) -> None:
        if not ticket.is_running:
            ticket.is_running = True
            self.num_waiting -= 1

    def _wake(self, tickets: list[tuple[Ticket, bool]]) -> None:
        for ticket, is_done in tickets:
            self._starts(ticket)
            ticket.wake(is_done)

    # In the engine thread

    def _run(self) -> None:
        live: list[Ticket] = []
        try:
            while self._take_in(live):
                self.scheduler.step()
                live = self._report(live)
        except Exception as error:  # not the fault of a request: the engine itself is broken
            log_fault(error)
            self.is_alive = False
            fault = of_fault(error)
            self._call_in_loop(lambda: self._end_all(lambda: fault))

    def _take_in(self, live: list[Ticket]) -> bool:
        """Submits new requests; waits while there is nothing to do. Returns False if the server ends."""
        with self._news:
            while not self._is_stopped and not self._inbox and not live:
                self._news.wait()
            arrived = [self._inbox.popleft() for _ in range(len(self._inbox))]
        for ticket in arrived:
            assert ticket.request is not None
            try:
                self.scheduler.submit(ticket.request)
                live.append(ticket)
            except ValueError as error:  # it is too long for the cache
                self._call_in_loop(partial(ticket.fail, invalid(str(error), code="context_length_exceeded")))
        return not self._is_stopped

    def _report(self, live: list[Ticket]) -> list[Ticket]:
        """Wakes the handlers of tickets with new ids; returns the tickets that are not finished."""
        woken, unfinished = [], []
        for ticket in live:
            request, num_before = ticket.request, ticket.num_ids
            assert request is not None
            count = ticket.take_new_ids()
            if count:
                self.metrics.add_ids(request.kind, count * request.n)
                if num_before == 0:
                    self.metrics.first_id(request.kind, time.monotonic() - ticket.arrived)
            if request.error is not None and not isinstance(request.error, ApiError):
                log_fault(request.error)
            is_due = num_before == 0 or request.kind == Kind.TEXT or ticket.num_ids in ticket.wake_at
            if request.finished or (count and is_due):
                woken.append((ticket, request.finished))
            if not request.finished:
                unfinished.append(ticket)
        if woken:
            self._call_in_loop(lambda: self._wake(woken))
        return unfinished

    def _call_in_loop(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(call)


def shutting_down() -> ApiError:
    return ApiError(503, "the server is shutting down", "shutting_down", headers=RETRY)
