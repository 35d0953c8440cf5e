"""Names by which a server may be called (the Host header).

A page elsewhere can make its own name stand for this machine (DNS rebinding), and the browser then lets it read what it
asks of a server here. But the Host header still has the page's name. So a server on loopback answers to names of
loopback alone.
"""

import ipaddress
import re
import socket
from collections.abc import Collection, Sequence

LOOPBACK = "localhost"  # stands for every name of loopback


def allowed_hosts(host: str, more: Sequence[str]) -> list[str]:
    """Names that the Host header may have: on loopback this machine's, elsewhere any where none are given."""
    return [LOOPBACK, *more] if is_local(host) else list(more)


def is_local(host: str) -> bool:
    """Whether only this machine reaches a server that listens there: a name of loopback, or one that stands for it."""
    host = host.lower().removesuffix(".")
    if is_loopback(host):
        return True
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)} if host else set()
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(map(is_loopback, found))


def is_loopback(name: str) -> bool:
    """Of a name or an address, which is not looked up."""
    try:
        ip = ipaddress.ip_address(name.strip("[]").partition("%")[0])
    except ValueError:
        return name == LOOPBACK or name.endswith(f".{LOOPBACK}")
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_loopback


def plain_name(host: str) -> str:
    """What stands in a Host header, without its port, the dot of a full name, and capitals."""
    return re.sub(r":\d*$", "", host.lower()).removesuffix(".")


def is_allowed(host: str, names: Collection[str]) -> bool:
    """host: as `plain_name` gives it. names: allowed ones, likewise."""
    return host in names or (LOOPBACK in names and is_loopback(host))
