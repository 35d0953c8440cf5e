"""Middleware between the socket and the API: access, limits, time, and error responses.

    socket ─► host and origin ─► key ─► in flight ─► body, within size and time ─► API ─► headers ─► socket
                                                          └─ client disconnects: the API's handler is cancelled

Plain ASGI, because it must handle a request before its body is read, and must outlive the API's handler.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from openjanus.serve.decode_queue import CLIENT
from openjanus.serve.errors import OUTCOME, RETRY, ApiError, of_fault
from openjanus.serve.hosts import is_allowed, plain_name
from openjanus.serve.keys import WrongKeys
from openjanus.serve.limits import Limits
from openjanus.serve.log import log_fault
from openjanus.serve.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

logger = logging.getLogger("openjanus.serve")
LINGER_SECONDS = 1.0  # to read the rest of a rejected body; without it the client could lose the error response
NEEDS_KEY = ("/v1/", "/metrics", "/openapi.json")
ENDPOINTS = {
    "/v1/chat/completions", "/v1/responses", "/v1/images/generations", "/v1/models",
    "/health", "/ready", "/metrics", "/",
}  # fmt: skip
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class Keys:
    """API keys. Only their digests are kept; a comparison reads every key, so its time does not depend on the key."""

    def __init__(self, keys: Sequence[str] = ()):
        self.digests = [_digest(key.encode()) for key in dict.fromkeys(keys)]

    def find(self, authorization: bytes) -> str | None:
        """The number, from 1, of the key in `Authorization: Bearer KEY`, or None if it is not one of these."""
        scheme, _, key = authorization.partition(b" ")
        given = _digest(key.strip())
        same = [hmac.compare_digest(given, digest) for digest in self.digests]
        return str(same.index(True) + 1) if any(same) and scheme.lower() == b"bearer" else None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


@dataclass
class Outcome:
    """How a request ended, for the log and the metrics. key: the number of its API key."""

    key: str | None = None
    error: ApiError | None = None
    has_left: bool = False  # the client disconnected before the end of the answer

    def status(self, sent: int) -> int:
        """The status for log and metrics. sent: the status that was sent, 0 if none. A stream that failed has the
        error's status; 499: the client disconnected."""
        if self.error is not None:
            return self.error.status
        return 499 if self.has_left or not sent else sent

    def code(self, sent: int) -> str | None:
        """The error's code; for an error response that was not recorded (`note`), its status."""
        if self.error is not None:
            return self.error.code or str(self.error.status)
        return str(sent) if sent >= 400 else None


class Response:
    """Sends an answer with the common headers, and records whether it has begun and ended."""

    def __init__(self, send: Send, id: str):
        self._send, self.id, self.status, self.close = send, id, 0, False
        self.is_whole = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            names = {name.lower() for name, _ in message.get("headers", ())}
            extra = {**HEADERS, "X-Request-Id": self.id, **({"Connection": "close"} if self.close else {})}
            more = [(k.lower().encode(), v.encode()) for k, v in extra.items() if k.lower().encode() not in names]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.is_whole = True

    async def error(self, error: ApiError) -> None:
        body = json.dumps(error.body()).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **error.headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": error.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})


class Guard:
    """Wraps the API. hosts: names that the Host header may have; empty for any."""

    def __init__(self, app: App, limits: Limits, metrics: Metrics, keys: Keys, hosts: Collection[str] = ()):
        self.app, self.limits, self.metrics, self.keys = app, limits, metrics, keys
        self.hosts = frozenset(map(plain_name, hosts))
        self.wrong_keys = WrongKeys(limits.max_wrong_keys)
        self._in_flight: Counter[str] = Counter()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, response = time.monotonic(), Response(send, secrets.token_hex(8))
        body, outcome = _Body(receive, self.limits), Outcome()
        scope[OUTCOME] = outcome
        headers = {name: value for name, value in scope["headers"]}
        try:
            self._check_host(headers)
            outcome.key = self._identify(scope, headers)
            client = outcome.key or _address(scope)
            CLIENT.set(client)
            with self._counted(scope, client):
                await body.read(headers)
                await self._run(scope, body, response)
        except _Gone:
            outcome.has_left = True
        except Exception as error:
            if not isinstance(error, ApiError):
                log_fault(error)
            outcome.error = of_fault(error)
            if not response.status:
                response.close = not await body.discard()
                await response.error(outcome.error)
        finally:
            self._note(scope, response, outcome, time.monotonic() - started)

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        """Rejects requests of foreign web pages to a server on this machine, also by DNS rebinding."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self.hosts and not is_allowed(plain_name(host), self.hosts):
            raise ApiError(403, "this server does not go by that name (Host header)", "host_not_allowed")
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if origin and origin.partition("://")[2] != host:
            raise ApiError(403, "requests from other sites are not answered (Origin header)", "origin_not_allowed")

    def _identify(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> str | None:
        """The number of a request's key, None if none is needed."""
        if not self.keys.digests or not scope["path"].startswith(NEEDS_KEY):
            return None
        address, given = _address(scope), headers.get(b"authorization", b"")
        if seconds := self.wrong_keys.wait_seconds(address):  # also for the right key, or guessing would go on
            raise ApiError(
                429, f"too many wrong API keys came from this address: wait {seconds} seconds", "too_many_wrong_keys",
                headers={"Retry-After": str(seconds)},
            )  # fmt: skip
        name = self.keys.find(given)
        if name is None:
            if given:
                self.wrong_keys.add(address)
            raise ApiError(
                401, "missing or wrong API key: send Authorization: Bearer KEY", "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        return name

    @contextmanager
    def _counted(self, scope: MutableMapping[str, Any], name: str) -> Iterator[None]:
        if scope["method"] != "POST":
            yield
            return
        max_in_flight = self.limits.max_in_flight
        if self._in_flight[name] >= max_in_flight:
            raise ApiError(
                429, f"{max_in_flight} requests are in flight already: wait for one", "too_many_requests", None, RETRY
            )
        self._in_flight[name] += 1
        try:
            yield
        finally:
            self._in_flight[name] -= 1
            if not self._in_flight[name]:
                del self._in_flight[name]

    async def _run(self, scope: MutableMapping[str, Any], body: "_Body", response: Response) -> None:
        """Runs the API, and cancels it when the client disconnects."""
        work = asyncio.ensure_future(self.app(scope, body.replay, response.send))
        gone = asyncio.ensure_future(body.until_gone())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            elif not response.is_whole:
                raise _Gone
        finally:
            for task in (work, gone):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    def _note(self, scope: MutableMapping[str, Any], response: Response, outcome: Outcome, seconds: float) -> None:
        path = scope["path"]
        endpoint = path if path in ENDPOINTS else "other"
        status, code = outcome.status(response.status), outcome.code(response.status)
        self.metrics.answered(endpoint, status, seconds)
        if code is not None:
            self.metrics.errors.labels(code).inc()
        if endpoint not in ("/health", "/ready", "/metrics"):
            shown = path if endpoint != "other" else scope["raw_path"][:80].decode("latin-1")
            more = {"id": response.id, "client": _address(scope), "key": outcome.key, "error": code}
            logger.info(
                "%s %s %d %.0f ms %s", scope["method"], shown, status, seconds * 1e3,
                " ".join(f"{name}={value}" for name, value in more.items() if value is not None),
            )  # fmt: skip


class _Gone(Exception):
    """The client has disconnected."""


class _Body:
    """A request's body: read completely, within limits, and then passed on."""

    def __init__(self, receive: Receive, limits: Limits):
        self.receive, self.limits = receive, limits
        self.data, self.is_whole, self.is_given = bytearray(), False, False

    async def read(self, headers: dict[bytes, bytes]) -> None:
        max_bytes = self.limits.max_body_bytes
        too_large = ApiError(413, f"the body is larger than {max_bytes:,} bytes", "body_too_large")
        with suppress(ValueError):
            if int(headers.get(b"content-length", b"0")) > max_bytes:
                raise too_large
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while not self.is_whole:
                    self.data += await self._next()
                    if len(self.data) > max_bytes:
                        raise too_large
        except TimeoutError:
            raise ApiError(408, "the body did not come in time", "body_too_slow") from None

    async def _next(self) -> bytes:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        self.is_whole = not message.get("more_body", False)
        return message.get("body", b"")

    async def discard(self) -> bool:
        """Reads the rest of a rejected body for at most `LINGER_SECONDS`; returns whether all of it was read."""
        self.data.clear()
        with suppress(TimeoutError, _Gone):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self.is_whole:
                    await self._next()
        return self.is_whole

    async def replay(self) -> Message:
        if not self.is_given:
            self.is_given = True
            body, self.data = bytes(self.data), bytearray()
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.Event().wait()  # the guard itself watches for a disconnect
        raise AssertionError

    async def until_gone(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass


def _address(scope: MutableMapping[str, Any]) -> str:
    """The client's address; behind a proxy, the proxy's."""
    return str((scope.get("client") or ("unknown",))[0])
