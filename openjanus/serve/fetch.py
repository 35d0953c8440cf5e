"""Remote pictures, where the operator allows them: only from public addresses, without redirects, within size and time.

The name is resolved once, every address that it has must be public, and the connection goes to the address that was
checked: a name that resolves differently the second time gains nothing.
"""

import http.client
import ipaddress
import socket
import ssl
import time
from urllib.parse import urlsplit

from openjanus.serve.errors import ApiError, invalid

PORTS = {"http": 80, "https": 443}
CHUNK_BYTES = 65536
# Addresses that wrap another one, which may be private.
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
    """Connects to the checked address, whatever the name resolves to by now."""

    def __init__(self, host: str, port: int, address: str, seconds: float, context: ssl.SSLContext | None):
        super().__init__(host, port, timeout=seconds)
        self.address, self.context = address, context

    def connect(self) -> None:
        self.sock = socket.create_connection((self.address, self.port), self.timeout)
        if self.context is not None:
            self.sock = self.context.wrap_socket(self.sock, server_hostname=self.host)


def fetch_picture(url: str, max_bytes: int, seconds: float) -> bytes:
    """The bytes behind an http(s) URL. Raises ApiError for whatever is not simply there."""
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
    connection = _Connection(host, port, public_address(host, port), seconds, context)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "openjanus"})
        response = connection.getresponse()
        if response.status != 200:  # a redirect, too: it could lead anywhere
            raise invalid(f"the picture's host answered {response.status}", code="invalid_image_url")
        return _read(response, connection, max_bytes, deadline)
    except ApiError:
        raise
    except (OSError, http.client.HTTPException, ValueError):
        raise invalid("the picture could not be loaded from its host", code="invalid_image_url") from None
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse, connection: _Connection, max_bytes: int, deadline: float) -> bytes:
    """The body, as long as size and time allow: a host that sends a byte now and then gets no further."""
    data = bytearray()
    while chunk := response.read1(CHUNK_BYTES):
        data += chunk
        left = deadline - time.monotonic()
        if len(data) > max_bytes:
            raise invalid(f"the picture is larger than {max_bytes:,} bytes", code="image_too_large")
        if left <= 0:
            raise invalid("the picture's host is too slow", code="invalid_image_url")
        if connection.sock is not None:
            connection.sock.settimeout(left)
    return bytes(data)
