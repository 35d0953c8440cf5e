"""HTTP as no library would send it: bytes, half requests, slow ones."""

import json
import socket
from contextlib import contextmanager


@contextmanager
def connected(port: int, seconds: float = 60, receive_buffer: int | None = None):
    """A socket to the server."""
    with socket.socket() as it:
        if receive_buffer is not None:
            it.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        it.settimeout(seconds)
        it.connect(("127.0.0.1", port))
        yield it


def head(path: str, length: int | None, method: str = "POST", **headers: str) -> bytes:
    lines = {
        "Host": "127.0.0.1",
        "Content-Type": "application/json",
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    if length is not None:
        lines["Content-Length"] = str(length)
    return "\r\n".join([f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in lines.items()), "", ""]).encode()


def send(
    port: int, path: str, body: bytes | dict | list, method: str = "POST", **headers: str
) -> tuple[int, dict, dict]:
    """One request; gives status, headers and the JSON of the answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with connected(port) as it:
        it.sendall(head(path, len(data), method, Connection="close", **headers) + data)
        return answer(it)


def answer(it: socket.socket) -> tuple[int, dict, dict]:
    """Reads until the server closes."""
    raw = b""
    while chunk := it.recv(65536):
        raw += chunk
    top, _, content = raw.partition(b"\r\n\r\n")
    status, *lines = top.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    is_json = headers.get("content-type", "").startswith("application/json")
    return int(status.split()[1]), headers, json.loads(content) if is_json else {"text": content.decode()}
