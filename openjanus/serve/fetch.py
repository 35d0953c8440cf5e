"""Downloads remote pictures, if the operator allows them: from public addresses only, without redirects, within limits.

The name is resolved once, all of its addresses must be public, and the connection goes to the checked address. So a
name that resolves differently the second time has no effect. One deadline covers the whole download (name, connection,
TLS, head and body), also if a host sends single bytes slowly.
"""

import http.client
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from openjanus.serve.errors import ApiError, invalid

PORTS = {"http": 80, "https": 443}
CHUNK_BYTES = 65536
# Networks whose addresses contain an IPv4 address, which may be private.
WRAPPERS = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: str) -> bool:
    """Whether a resolved address belongs to the public internet."""
    ip: Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif any(ip in network for network in WRAPPERS):
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback)


def public_address(host: str, port: int) -> str:
    """The first address of a host. Raises ApiError if there is none, or if any of them is not public."""
    try:
        found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        raise invalid("the picture's host is not known", code="invalid_image_url") from None
    if not found or not all(is_public(address) for address in found):
        raise invalid("the picture's host is not a public address", code="invalid_image_url")
    return found[0]


class _Connection(http.client.HTTPConnection):
    """Connects to the checked address without resolving the name again."""

    def __init__(self, host: str, port: int, address: str, seconds: float, context: ssl.SSLContext | None):
        super().__init__(host, port, timeout=seconds)
        self.address, self.context = address, context
        self._opened: socket.socket | None = None  # http.client may set `sock` to None while it reads the body
        self._is_cut = False

    def connect(self) -> None:
        self.sock = self._opened = socket.create_connection((self.address, self.port), self.timeout)
        if self.context is not None:
            # The deadline closes `_opened`, so the handshake must come after the assignment.
            self.sock = self._opened = self.context.wrap_socket(
                self.sock, server_hostname=self.host, do_handshake_on_connect=False
            )
            if self._is_cut:
                raise TimeoutError
            self.sock.do_handshake()

    @contextmanager
    def cut_at(self, deadline: float) -> Iterator[None]:
        """Shuts the socket down at the deadline, which ends all waiting. A socket's own timeout starts again with each
        byte."""

        def cut() -> None:
            self._is_cut = True
            if self._opened is not None:
                with suppress(OSError):
                    socket.socket.shutdown(self._opened, socket.SHUT_RDWR)

        timer = threading.Timer(max(deadline - time.monotonic(), 0), cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _look_up(host: str, port: int, seconds: float) -> str:
    """`public_address` in bounded time: the resolver itself has no timeout."""
    found: queue.Queue[str | Exception] = queue.Queue()

    def look() -> None:
        try:
            found.put(public_address(host, port))
        except Exception as error:
            found.put(error)

    threading.Thread(target=look, daemon=True).start()
    try:
        address = found.get(timeout=seconds)
    except queue.Empty:
        raise _too_slow() from None
    if isinstance(address, Exception):
        raise address
    return address


def _too_slow() -> ApiError:
    return invalid("the picture's host is too slow", code="invalid_image_url")


def fetch_picture(url: str, max_bytes: int, seconds: float) -> bytes:
    """Downloads an http(s) URL. Raises ApiError if the answer is not status 200 within the limits."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or PORTS.get(parts.scheme)
    except ValueError:
        raise invalid("the picture's URL cannot be read", code="invalid_image_url") from None
    if not host or port != PORTS.get(parts.scheme) or port is None or parts.username is not None:
        raise invalid(
            "the picture's URL must be http or https, on the standard port, without a user", code="invalid_image_url"
        )
    deadline = time.monotonic() + seconds
    context = ssl.create_default_context() if parts.scheme == "https" else None
    address = _look_up(host, port, seconds)
    connection = _Connection(host, port, address, max(deadline - time.monotonic(), 0.001), context)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        with connection.cut_at(deadline):
            connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "openjanus"})
            response = connection.getresponse()
            if response.status != 200:  # redirects are errors, too: they could lead to private addresses
                raise invalid(f"the picture's host answered {response.status}", code="invalid_image_url")
            data = _read(response, max_bytes)
        if time.monotonic() >= deadline:  # the body may be truncated
            raise _too_slow()
        return data
    except ApiError:
        raise
    except (OSError, http.client.HTTPException, ValueError):
        if time.monotonic() >= deadline:
            raise _too_slow() from None
        raise invalid("the picture could not be loaded from its host", code="invalid_image_url") from None
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    """The body. Raises ApiError if it is too large."""
    data = bytearray()
    while chunk := response.read1(CHUNK_BYTES):
        data += chunk
        if len(data) > max_bytes:
            raise invalid(f"the picture is larger than {max_bytes:,} bytes", code="image_too_large")
    return bytes(data)
