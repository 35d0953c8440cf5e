"""The lifecycle of the server: socket, start, signals, shutdown.

port is bound ─► model loads ─► socket opens ─► serve
─► signal: new requests get 503, running ones finish ─► end of grace time or second Ctrl-C: they end ─► socket closes
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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

END_SECONDS = 5.0  # from the end of the grace time until connections are aborted
HURRY_SECONDS = 1.0  # the same after a second Ctrl-C
BACKLOG = 2048


class Server(uvicorn.Server):
    """uvicorn's server with another shutdown: running requests have `grace_seconds` to finish."""

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
        with handled(self._on_signal):
            yield

    def _on_signal(self, number: int) -> None:
        """The first signal starts the shutdown; a later Ctrl-C ends running requests, and another one the process."""
        if self.is_hurried and number == signal.SIGINT:
            leave(128 + number)
        self.is_hurried = self.should_exit and (self.is_hurried or number == signal.SIGINT)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """While requests run, the socket stays open: `/ready` answers 503 to load balancers, and new requests get 503.
        Then all connections are closed. After a second Ctrl-C the process does not wait for its threads."""
        workers, connections = self.service.workers, self.server_state.connections

        def num_open() -> int:
            return sum(len(worker.open) for worker in workers)

        for worker in workers:
            worker.drain(self.grace_seconds)
        self._close_idle()
        if num_open():
            log.logger.info(
                "ending: %d requests have %g s to finish; Ctrl-C ends them at once", num_open(), self.grace_seconds
            )
        await _until(lambda: not num_open() or self.is_hurried, self.grace_seconds + END_SECONDS)
        for worker in workers:
            worker.end_all()
        for server in self.servers:
            server.close()
        self._close_idle()
        began = time.monotonic()
        await _until(
            lambda: not connections or (self.is_hurried and time.monotonic() > began + HURRY_SECONDS), END_SECONDS
        )
        for connection in list(connections):
            connection.transport.abort()  # ends its request like a disconnect
        if self.is_hurried:
            leave(128 + signal.SIGINT)
        await super().shutdown(sockets)

    def _close_idle(self) -> None:
        """Closes idle connections; the others close after their answer."""
        for connection in list(self.server_state.connections):
            connection.shutdown()


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        await asyncio.sleep(0.02)


def run(
    load: Callable[[], Engine],
    s: ServerSettings,
    beside: Callable[[Engine], Mapping[str, Engine]] = lambda engine: {},
) -> None:
    """Serves until a signal. beside: loads the models beside the first, whose engine it gets (`Service`).

    The port is bound before the models are loaded, which can take minutes; it accepts connections after that.
    Raises ValueError for wrong settings or a wrong model before the socket opens.
    """
    keys = read_keys(s.api_keys)
    with bind(s.host, s.port) as opened:
        engine = load()
        service = Service(engine, s, beside(engine))
        server = make_server(service, keys, allowed_hosts(s.host, s.allow_host), s.grace_seconds)
        log.set_up(s.log_prompts)
        _open(opened, s.host, s.port)
        port = opened.getsockname()[1]
        shown = f"[{s.host}]" if ":" in s.host else s.host
        cache = service.worker.scheduler.cache
        warn_if_open(s)
        names = ", ".join(model.name for model in service.models)
        log.logger.info(
            "%s on http://%s:%d (%d slots of %d positions)", names, shown, port, cache.num_rows, cache.num_positions
        )
        server.run([opened])
    if any(worker.is_stepping for worker in service.workers):
        leave(0)


def warn_if_open(s: ServerSettings) -> None:
    if not read_keys(s.api_keys) and not is_local(s.host):
        log.logger.warning("anybody who reaches %s may use this server: set --api-keys or OPENJANUS_API_KEY", s.host)


def bind(host: str, port: int) -> socket.socket:
    """Binds a port (0: a free one) without listening. Raises ValueError if that fails."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise ValueError(f"cannot listen on {host}:{port}: {error}") from None
    # asyncio sets TCP_NODELAY only if the socket's protocol is IPPROTO_TCP.
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
    except OSError as error:  # another process bound the port at the same time
        raise ValueError(f"cannot listen on {host}:{port}: {error}") from None


def make_server(
    service: Service, keys: Sequence[str] = (), hosts: Sequence[str] = (), grace_seconds: float = 30
) -> Server:
    return Server(make_app(service, Keys(keys), hosts), service, grace_seconds)
