"""Reads API keys, and counts wrong ones."""

import ipaddress
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path


def read_keys(path: str | Path | None) -> list[str]:
    """API keys from a file, one a line, and from OPENJANUS_API_KEY. Raises ValueError for a file without any."""
    keys = []
    if path is not None:
        try:
            lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: cannot read API keys from it ({error})") from None
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise ValueError(f"{path}: no API key in it, expected one a line")
    if key := os.environ.get("OPENJANUS_API_KEY", "").strip("\ufeff \t\r\n"):
        keys.append(key)
    return keys


class WrongKeys:
    """Counts the wrong keys of each address within a minute, which begins with the first one.

    max_tries: after so many the address has to wait. Memory is bounded: the least recently counted address is dropped.
    """

    SECONDS, MAX_ADDRESSES = 60.0, 10_000

    def __init__(self, max_tries: int, clock: Callable[[], float] = time.monotonic):
        self.max_tries, self.clock = max_tries, clock
        self._tried: OrderedDict[str, tuple[int, float]] = OrderedDict()  # count, and when its minute ends

    def wait_seconds(self, address: str) -> int:
        """Seconds that this address must wait; 0: it may try."""
        count, end = self._tried.get(_network(address), (0, 0.0))
        return max(math.ceil(end - self.clock()), 0) if count >= self.max_tries else 0

    def add(self, address: str) -> None:
        name, now = _network(address), self.clock()
        count, end = self._tried.pop(name, (0, 0.0))
        self._tried[name] = (count + 1, end) if end > now else (1, now + self.SECONDS)
        if len(self._tried) > self.MAX_ADDRESSES:
            self._tried.popitem(last=False)


def _network(address: str) -> str:
    """An IPv6 client has 2**64 addresses (its /64 network): they count as one."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if ip.version == 4 or ip.ipv4_mapped is not None:
        return str(ip)
    return str(ipaddress.ip_network((ip, 64), strict=False))
