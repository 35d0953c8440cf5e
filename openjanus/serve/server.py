"""The server's life: socket, start, signals, end.

port is taken ─► model loads ─► socket opens ─► serve
─► signal: new requests get 503, running ones finish ─► grace is over, or a second Ctrl-C: they end ─► socket closes
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import uvicorn

from openjanus.inference.engine import Engine
from openjanus.serve import log
from openjanus.serve.app import make_app
from openjanus.serve.connection import Connection
from openjanus.serve.guard import Guard, Keys
from openjanus.serve.hosts import allowed_hosts, is_local
from openjanus.serve.keys import read_keys
from openjanus.serve.service import Service
from openjanus.serve.settings import ServerSettings
from openjanus.serve.signals import handled, leave

END_SECONDS = 5.0  # from the end of the grace time until what does not end by itself is cut off
HURRY_SECONDS = 1.0  # the same after a second Ctrl-C
BACKLOG = 2048


class Server(uvicorn.Server):
    """uvicorn's server, with an end of our own: requests that run have `grace_seconds`."""

    def __init__(self, app: Guard, service: Service, grace_seconds: float):
        protocol = type("BoundConnection", (Connection,), {"limits": service.limits})
        config = uvicorn.Config(
            app, http=protocol, ws="none", lifespan="on", log_config=None, access_log=False, server_header=False,
            proxy_headers=False, timeout_graceful_shutdown=int(END_SECONDS),
            timeout_keep_alive=service.limits.keep_alive_seconds,  # type: ignore[arg-type]  # any number of seconds
        )  # fmt: skip
        super().__init__(config)
        self.service, self.grace_seconds = service, grace_seconds
        self.is_hurried = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with handled(self._hear):
            yield

    def _hear(self, number: int) -> None:
        """Any signal ends the server, once; only Ctrl-C makes it end faster."""
        if self.is_hurried and number == signal.SIGINT:
            leave(128 + number)
        self.is_hurried = self.should_exit and (self.is_hurried or number == signal.SIGINT)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As long as answers run, the socket stays open: `/ready` says 503 to whoever spreads the load, new work gets
        503. Then every connection ends; a process in a hurry does not wait for its threads."""
        worker, connections = self.service.worker, self.server_state.connections
        worker.drain(self.grace_seconds)
        self._close_idle()
        if worker.open:
            log.logger.info(
                "ending: %d requests have %g s to finish; Ctrl-C ends them at once",
                len(worker.open), self.grace_seconds,
            )  # fmt: skip
        await _until(lambda: not worker.open or self.is_hurried, self.grace_seconds + END_SECONDS)
        worker.end_all()
        for server in self.servers:
            server.close()
        self._close_idle()
        began = time.monotonic()
        await _until(
            lambda: not connections or (self.is_hurried and time.monotonic() > began + HURRY_SECONDS), END_SECONDS
        )
        for connection in list(connections):
            connection.transport.abort()  # its request ends as that of a client who left
        if self.is_hurried:
            leave(128 + signal.SIGINT)
        await super().shutdown(sockets)

    def _close_idle(self) -> None:
        """Closes connections that wait for a request; those with one close behind its answer."""
        for connection in list(self.server_state.connections):
            connection.shutdown()


async def _until(happens: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happens() and time.monotonic() < end:
        await asyncio.sleep(0.02)


def run(load: Callable[[], Engine], s: ServerSettings) -> None:
    """Serves until a signal. Raises ValueError for whatever is wrong, before the socket opens.

    The port is taken first, so that it is known to be free before minutes go into loading; it opens when the model is
    there.
    """
    keys = read_keys(s.api_keys)
    with bind(s.host, s.port) as opened:
        service = Service(load(), s)
        server = make_server(service, keys, allowed_hosts(s.host, s.allow_host), s.grace_seconds)
        log.set_up(s.log_prompts)
        _open(opened, s.host, s.port)
        port = opened.getsockname()[1]
        shown = f"[{s.host}]" if ":" in s.host else s.host
        cache = service.worker.scheduler.cache
        warn_if_open(s)
        log.logger.info(
            "%s on http://%s:%d (%d slots of %d positions)", s.name, shown, port, cache.num_rows, cache.num_positions
        )
        server.run([opened])
    if service.worker.is_stepping:
        leave(0)


def warn_if_open(s: ServerSettings) -> None:
    if not read_keys(s.api_keys) and not is_local(s.host):
        log.logger.warning("anybody who reaches %s may use this server: set --api-keys or OPENJANUS_API_KEY", s.host)


def bind(host: str, port: int) -> socket.socket:
    """Takes a port (0: a free one), at which nobody can connect yet. Raises ValueError with what is wrong."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise ValueError(f"cannot listen on {host}:{port}: {error}") from None
    # asyncio sends small answers at once (TCP_NODELAY) only where a socket says that it is TCP.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if os.name == "posix":
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address[:2])
    except OSError as error:
        bound.close()
        raise ValueError(f"cannot listen on {host}:{port}: {error}") from None
    return bound


def _open(bound: socket.socket, host: str, port: int) -> None:
    try:
        bound.listen(BACKLOG)
    except OSError as error:  # another process took the port at the same time, and was faster
        raise ValueError(f"cannot listen on {host}:{port}: {error}") from None


def make_server(
    service: Service, keys: Sequence[str] = (), hosts: Sequence[str] = (), grace_seconds: float = 30
) -> Server:
    return Server(make_app(service, Keys(keys), hosts), service, grace_seconds)
