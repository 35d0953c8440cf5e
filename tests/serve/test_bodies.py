"""No body within the limits stops the event loop, takes much memory, or is answered with its own words at length."""

import base64
import io
import json
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from openjanus.serve.limits import Limits
from tests.serve.conftest import run_server
from tests.serve.raw import connected, head, send
from tests.serve.test_faults import CHAT, DRAW, chat_body

MIB = 2**20
LIMIT_SECONDS, LIMIT_MIB = 0.5, 200


def chat(content: bytes, more: bytes = b"") -> bytes:
    return b'{"messages": [{"role": "user", "content": ' + content + b"}]" + more + b"}"


def many(item: bytes, size: int, start: bytes = b"[", end: bytes = b"]") -> bytes:
    """`item`, or `item % number`, as often as it fits into `size` bytes."""
    if b"%d" not in item:
        return start + b",".join([item] * (size // (len(item) + 1))) + end
    return start + b",".join(item % i for i in range(size // (len(item) + 6))) + end


def picture_part(base64: bytes) -> bytes:
    return b'[{"type":"image_url","image_url":{"url":"data:image/png;base64,' + base64 + b'"}}]'


HUGE = 12 * MIB
BODIES = {
    "parts without type": chat(many(b"{}", HUGE)),
    "a legal number of wrong parts": chat(many(b"{}", 100_000)),
    "valid parts": chat(many(b'{"type":"text","text":""}', HUGE)),
    "numbers as parts": chat(many(b"1", HUGE)),
    "messages": b'{"messages": ' + many(b"{}", HUGE) + b"}",
    "empty messages": b'{"messages": ' + many(b'{"role":"user"}', HUGE) + b"}",
    "unknown keys": chat(b'"hi"', b"," + many(b'"k%d":1', HUGE, b"", b"")),
    "a legal number of unknown keys": chat(b'"hi"', b"," + many(b'"k%d":1', 500_000, b"", b"")),
    "unknown keys in a message": b'{"messages": [' + many(b'"k%d":1', HUGE, b"{", b"}") + b"]}",
    "unknown keys in a part": chat(b"[" + many(b'"k%d":1', 500_000, b'{"type":"text",', b"}") + b"]"),
    "metadata": chat(b'"hi"', b',"max_tokens":1,"metadata":' + many(b'"k%d":{}', HUGE, b"{", b"}")),
    "a legal number of metadata": chat(b'"hi"', b',"max_tokens":1,"metadata":' + many(b'"k%d":{}', 10**6, b"{", b"}")),
    "tools": chat(b'"hi"', b',"max_tokens":1,"tools":' + many(b'{"type":"function"}', HUGE)),
    "nested lists": chat(b"[" * (HUGE // 2) + b"]" * (HUGE // 2)),
    "nested objects": chat(b'{"a":' * (HUGE // 6) + b"1" + b"}" * (HUGE // 6)),
    "legal nesting": chat(b'"hi"', b',"max_tokens":1,"metadata":' + many(b"[" * 150 + b"]" * 150, 300_000)),
    "a long name": chat(b'"hi"', b',"' + b"k" * HUGE + b'":1'),
    "a long role": b'{"messages": [{"role": "' + b"r" * HUGE + b'", "content": "hi"}]}',
    "a long type": chat(b'[{"type":"' + b"t" * HUGE + b'"}]'),
    "a long number": chat(b'"hi"', b',"seed":' + b"9" * HUGE),
    "a long fraction": chat(b'"hi"', b',"temperature":0.' + b"1" * HUGE),
    "a long text": chat(b'"' + b"\\u0041" * (HUGE // 6) + b'"'),
    "spaces": b" " * HUGE + chat(b'"hi"', b',"max_tokens":1'),
    "a picture with spaces": chat(picture_part(b"a " * (HUGE // 2))),
    "a picture with escapes": chat(picture_part(b"%41" * (HUGE // 3))),
    "stop strings": chat(b'"hi"', b',"stop":' + many(b'""', HUGE)),
}


@pytest.fixture(scope="module")
def open_server(engine):
    with run_server(engine) as running:
        yield running


class Watch:
    """Asks for /health all the time, from another thread: its longest wait, and how far memory went up meanwhile."""

    def __init__(self, url: str):
        self.url, self.longest, self.stopped = url, 0.0, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        self.before = memory("VmRSS")
        self.thread.start()
        return self

    def _run(self) -> None:
        while not self.stopped.is_set():
            started = time.perf_counter()
            with urllib.request.urlopen(f"{self.url}/health", timeout=120) as got:
                assert got.status == 200
            self.longest = max(self.longest, time.perf_counter() - started)
            time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()
        self.mib = memory("VmHWM") - self.before


def memory(name: str) -> float:
    """MiB of this process, in which the server runs."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


def post(port: int, body: bytes, path: str = CHAT) -> tuple[int, bytes]:
    with connected(port) as it:
        it.sendall(head(path, len(body), Connection="close"))
        it.sendall(body)
        raw = b""
        while chunk := it.recv(65536):
            raw += chunk
    return int(raw.split()[1]), raw


@pytest.mark.parametrize("name", BODIES)
def test_no_body_stops_health_or_takes_memory(open_server, name) -> None:
    body = BODIES[name]
    for _ in range(3):  # other work on the machine may hold one try up
        with Watch(open_server.url) as watch:
            status, raw = post(open_server.port, body)
        assert status in (200, 400) and len(raw) < 5000
        if watch.longest < LIMIT_SECONDS:
            break
    assert watch.longest < LIMIT_SECONDS, f"/health waited {watch.longest:.2f} s"
    assert watch.mib < LIMIT_MIB, f"memory rose by {watch.mib:.0f} MiB"


def large_picture(mode: str) -> str:
    """16 million pixels in a few kilobytes."""
    file = io.BytesIO()
    Image.new(mode, (4000, 4000), "red").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_many_large_pictures_are_not_held_at_once(open_server, mode) -> None:
    part = {"type": "image_url", "image_url": {"url": large_picture(mode)}}
    body = json.dumps({"messages": [{"role": "user", "content": [part] * 8}], "max_tokens": 1}).encode()
    with Watch(open_server.url) as watch:
        status, _ = post(open_server.port, body)
    assert status == 200 and watch.mib < LIMIT_MIB, f"memory rose by {watch.mib:.0f} MiB"


def test_many_values_are_refused_with_their_number(open_server) -> None:
    status, _, body = send(open_server.port, CHAT, BODIES["parts without type"])
    assert status == 400 and body["error"]["code"] == "too_many_values"


def test_text_may_hold_as_many_commas_as_characters(engine) -> None:
    limits = Limits(max_body_values=100, max_prompt_chars=5000)
    with run_server(engine, limits) as running:
        body = {"messages": [{"role": "system", "content": "," * 4900}, {"role": "user", "content": "hi"}]}
        status, _, answer = send(running.port, CHAT, body)
        assert status == 400 and answer["error"]["code"] == "context_length_exceeded"
        status, _, answer = send(running.port, CHAT, {**body, "metadata": {"a": "," * 5000}})
        assert answer["error"]["code"] == "too_many_values"


ERRORS = {
    "no content type": (b"{}", {"Content_Type": ""}, "Content-Type", None),
    "text": (b"{}", {"Content_Type": "text/plain"}, "Content-Type", None),
    "half": (b'{"messages": [', {}, "not JSON", None),
    "list": (b"[]", {}, "a JSON object", None),
    "nothing": (b"", {}, "not JSON", None),
    "no messages": (b"{}", {}, "messages: ", "messages"),
    "wrong part": (chat(b'[{"type":"text","text":"a"},{"type":"video"}]'), {}, "text", "messages.0.content.1"),
    "part without type": (chat(b'[{"text":"a"}]'), {}, "of type text or image_url", "messages.0.content.0"),
    "half of a character": (chat(b'"\\ud800"'), {}, "hex escape", None),
    "number": (chat(b"7"), {}, "text or a list of parts", "messages.0.content"),
    "url": (chat(b'[{"type":"image_url","image_url":{"url":7}}]'), {}, "string", "messages.0.content.0.image_url.url"),
    "key in a part": (chat(b'[{"type":"text","text":"a","b":1}]'), {}, "unknown", "messages.0.content.0.b"),
    "stop": (chat(b'"a"', b',"stop":[1]'), {}, "string", "stop.0"),
    "sound": (chat(b'[{"type":"input_audio","input_audio":{}}]'), {}, "text", "messages.0.content.0"),
    "a tool's message": (b'{"messages":[{"role":"tool","content":"a"}]}', {}, "no tools", "messages.0.role"),
    "tool calls": (
        b'{"messages":[{"role":"assistant","tool_calls":[{}]}]}', {}, "no tools", "messages.0.tool_calls",
    ),
    "unknown": (chat(b'"a"', b',"colour":1'), {}, "unknown parameter", "colour"),
    "known": (chat(b'"a"', b',"audio":{"voice":"a"}'), {}, "not supported", "audio"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_says_what_is_wrong_and_where(open_server, name) -> None:
    sent, headers, words, param = ERRORS[name]
    status, _, body = send(open_server.port, CHAT, sent, **headers)
    error = body["error"]
    assert status == 400 and error["param"] == param and words in error["message"], error
    for internal in ("function-", "tagged-union", "[", "_encodable", "extra_forbidden"):
        assert internal not in error["message"]


def test_a_name_in_an_error_is_cut(open_server) -> None:
    _, _, body = send(open_server.port, CHAT, chat_body(**{"n" * 10_000: 1}))
    assert body["error"]["param"].startswith("nnn") and len(body["error"]["param"]) < 100
    assert len(body["error"]["message"]) < 200


def test_too_many_rows_are_no_matter_of_context(open_server) -> None:
    status, _, body = send(open_server.port, DRAW, {"prompt": "a cat", "n": 9})
    error = body["error"]
    assert status == 400 and error["param"] == "n" and error["code"] == "invalid_value"
    assert "at most 8" in error["message"]
    status, _, body = send(open_server.port, DRAW, {"prompt": "cat " * 300})
    assert body["error"]["param"] == "prompt" and body["error"]["code"] == "context_length_exceeded"


def test_json_is_read_whatever_parameters_its_type_has(open_server) -> None:
    body = json.dumps(chat_body()).encode()
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"):
        assert send(open_server.port, CHAT, body, Content_Type=kind)[0] == 200
