"""A server on loopback, in a thread of the test's own process, and the real `openai` client."""

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from openai import OpenAI

from openjanus.inference.engine import Engine
from openjanus.serve.limits import Limits
from openjanus.serve.server import Server, bind, make_server
from openjanus.serve.service import Service
from openjanus.serve.settings import ServerSettings
from tests import tiny

T = TypeVar("T")


@dataclass
class Running:
    """A server that runs: where it is, and what stands behind it."""

    url: str
    service: Service
    server: Server
    loop: asyncio.AbstractEventLoop

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, key: str = "none", **settings) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=90, **settings)

    def settles(self) -> None:
        """Waits until nothing runs any more, which must be soon."""
        until(lambda: not self.service.worker.open and not self.service.worker.scheduler.owner)


def until(happens, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def run_coroutine(coroutine: Coroutine[Any, Any, T]) -> T:
    """asyncio.run in a thread of its own: once a test has opened a browser, a loop runs in the main thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


@contextmanager
def run_server(
    engine: Engine, limits: Limits | None = None, keys=(), hosts=(), beside=None, **settings
) -> Iterator[Running]:
    chosen = {"name": "tiny", "slots": 16, "limits": limits or Limits(), **settings}
    service = Service(engine, ServerSettings(**chosen), beside)
    server, loop = make_server(service, keys, hosts, grace_seconds=5), asyncio.new_event_loop()
    socket = bind("127.0.0.1", 0)

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(server.serve([socket]))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    until(lambda: server.started)
    yield Running(f"http://127.0.0.1:{socket.getsockname()[1]}", service, server, loop)
    server.should_exit = True
    thread.join(timeout=20)
    assert not thread.is_alive()
    loop.close()


@pytest.fixture(scope="session")
def engine() -> Engine:
    return Engine(tiny.checkpoint(sampling={"guidance": 3.0, "temperature": 0.9}))


@pytest.fixture(scope="module")
def served(engine) -> Iterator[Running]:
    """One server for a file's tests that leave it as they found it."""
    with run_server(engine) as running:
        yield running


@pytest.fixture
def client(served) -> OpenAI:
    return served.client()
