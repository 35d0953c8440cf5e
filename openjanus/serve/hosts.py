"""Allowed values of the Host header, against DNS rebinding.

A foreign web page can point its own domain name to this machine (DNS rebinding). The browser then lets the page read
the answers of a server here, but the Host header still has the page's name. So a server on loopback accepts only names
of loopback.
"""

import ipaddress
import re
import socket
from collections.abc import Collection, Sequence

LOOPBACK = "localhost"  # stands for every name of loopback


def allowed_hosts(host: str, more: Sequence[str]) -> list[str]:
    """Names that the Host header may have; empty: any. On loopback these are loopback's names and `more`."""
    return [LOOPBACK, *more] if is_local(host) else list(more)


def is_local(host: str) -> bool:
    """Whether a server that listens on `host` is reachable from this machine only: a loopback name or address, or a
    name that resolves to loopback addresses only."""
    host = host.lower().removesuffix(".")
    if is_loopback(host):
        return True
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)} if host else set()
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(map(is_loopback, found))


def is_loopback(name: str) -> bool:
    """Whether a name or an address is loopback, without resolving it."""
    try:
        ip = ipaddress.ip_address(name.strip("[]").partition("%")[0])
    except ValueError:
        return name == LOOPBACK or name.endswith(f".{LOOPBACK}")
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_loopback


def plain_name(host: str) -> str:
    """A Host header in lower case, without its port and the trailing dot of a fully qualified name."""
    return re.sub(r":\d*$", "", host.lower()).removesuffix(".")


def is_allowed(host: str, names: Collection[str]) -> bool:
    """host: as `plain_name` gives it. names: allowed ones, likewise."""
    return host in names or (LOOPBACK in names and is_loopback(host))
