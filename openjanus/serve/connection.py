"""One connection of a client, bounded in time and number.

It is closed if it does not send the head of its request in time, takes nothing of its answer, or is silent for too long
between two requests.
"""

import asyncio
import time
from collections import Counter
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from openjanus.serve.limits import Limits


class Connection(H11Protocol):
    """uvicorn's HTTP with three bounds that it lacks: time for a request's head, for taking an answer, and connections
    of one server. `limits` is set by a subclass made for the server."""

    limits: Limits

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._heard = time.monotonic()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._make_room()
        if not transport.is_closing():
            self._watch_head()

    def data_received(self, data: bytes) -> None:
        self._heard = time.monotonic()
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
        """Runs a timer while a request's head is outstanding; more bytes of it do not start the timer anew."""
        is_waiting = self.conn.their_state is h11.IDLE and not self.transport.is_closing()
        if is_waiting and self._timer is None:
            self._timer = self.loop.call_later(self.limits.header_seconds, self.transport.abort)
        elif not is_waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def is_owed_nothing(self) -> bool:
        """Whether nobody waits for an answer here: no whole request has come since the last answer."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self.transport.is_closing()

    def _make_room(self) -> None:
        """Closes a connection, so that who holds many idle ones locks nobody out: of the address that has the most of
        them the one that was silent for longest. If an answer is owed at all of them, the new one is closed."""
        others = [c for c in self.connections if isinstance(c, Connection) and c is not self and c.is_owed_nothing]
        held = Counter(c.address for c in others)
        if others:
            min(others, key=lambda c: (-held[c.address], c._heard)).transport.abort()
        else:
            self.transport.abort()

    @property
    def address(self) -> str:
        return self.client[0] if self.client else ""
