"""Client connections with limits on time and number.

A connection is closed if the head of its request does not arrive in time, if the client does not read its answer, or if
it is idle for too long between two requests.
"""

import asyncio
import time
from collections import Counter
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from openjanus.serve.limits import Limits


class Connection(H11Protocol):
    """uvicorn's HTTP with three more limits: time for a request's head, time for sending an answer, and the number of
    connections. A subclass made for each server sets `limits`."""

    limits: Limits

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._received_at = time.monotonic()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._make_room()
        if not transport.is_closing():
            self._watch_head()

    def data_received(self, data: bytes) -> None:
        self._received_at = time.monotonic()
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._timer, self._stall):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(self.limits.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _watch_head(self) -> None:
        """Runs a timer while a request's head is incomplete; further bytes do not restart it."""
        is_waiting = self.conn.their_state is h11.IDLE and not self.transport.is_closing()
        if is_waiting and self._timer is None:
            self._timer = self.loop.call_later(self.limits.header_seconds, self.transport.abort)
        elif not is_waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def is_idle(self) -> bool:
        """Whether no answer is due: no complete request has arrived since the last answer."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self.transport.is_closing()

    def _make_room(self) -> None:
        """Closes a connection, so that a client with many idle ones cannot lock others out: the longest idle one of the
        address with the most idle connections. If no connection is idle, it closes the new one."""
        idle = [c for c in self.connections if isinstance(c, Connection) and c is not self and c.is_idle]
        num_idle = Counter(c.address for c in idle)
        if idle:
            min(idle, key=lambda c: (-num_idle[c.address], c._received_at)).transport.abort()
        else:
            self.transport.abort()

    @property
    def address(self) -> str:
        return self.client[0] if self.client else ""
