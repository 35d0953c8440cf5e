"""Whatever one client does, or one request meets, every other request has its right answer and /health never fails."""

import base64
import io
import json
import logging
import socket
import struct
import threading
import time
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
import openai
import pytest
import torch
from PIL import Image

from openjanus.inference.sampling import SamplingOptions
from openjanus.serve.errors import ApiError
from openjanus.serve.limits import Limits
from openjanus.serve.worker import Ticket
from tests.serve.conftest import run_coroutine, run_server, until
from tests.serve.raw import answer, connected, head, send
from tests.serve.test_contract import RED, alone, ask, drawn_alone, picture_of, picture_part, text_of

CHAT, DRAW = "/v1/chat/completions", "/v1/images/generations"


def chat_body(**settings) -> dict:
    return {"messages": [{"role": "user", "content": "a red cat"}], "max_tokens": 12, **settings}


@contextmanager
def held(running):
    """The engine stands still inside."""
    scheduler, gate = running.service.worker.scheduler, threading.Event()
    step = scheduler.step
    scheduler.step = lambda: (gate.wait(), step())[1]
    try:
        yield
    finally:
        gate.set()
        scheduler.step = step


@contextmanager
def slow(running, seconds: float = 0.02):
    scheduler = running.service.worker.scheduler
    step = scheduler.step
    scheduler.step = lambda: (time.sleep(seconds), step())[1]
    yield
    scheduler.step = step


def test_a_full_queue_answers_429_at_once(engine) -> None:
    with run_server(engine, Limits(max_waiting=3)) as running, ThreadPoolExecutor(8) as pool:
        client = running.client()
        with held(running):
            waiting = [pool.submit(ask, client, "a red cat") for _ in range(3)]
            until(lambda: running.service.worker.num_waiting == 3)
            with pytest.raises(openai.RateLimitError) as error:
                ask(client, "a red cat")
            with pytest.raises(openai.RateLimitError):
                client.images.generate(prompt="a cat")
            assert error.value.code == "queue_full" and error.value.response.headers["retry-after"] == "1"
        wanted = alone(engine, ["a red cat"])
        assert [f.result().choices[0].message.content for f in waiting] == [wanted] * 3
        assert ask(client, "a red cat").choices[0].message.content == wanted


def test_requests_in_flight_of_one_key_are_bounded(engine) -> None:
    limits = Limits(max_in_flight=2)
    with run_server(engine, limits, keys=("one", "two")) as running, ThreadPoolExecutor(4) as pool:
        with held(running):
            busy = [pool.submit(ask, running.client("one"), "a red cat") for _ in range(2)]
            until(lambda: running.service.worker.num_waiting == 2)
            with pytest.raises(openai.RateLimitError) as error:
                ask(running.client("one"), "a red cat")
            assert error.value.code == "too_many_requests"
            other = pool.submit(ask, running.client("two"), "a red cat")
            until(lambda: running.service.worker.num_waiting == 3)
        for future in [*busy, other]:
            future.result()
        ask(running.client("one"), "a red cat")


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("path", [CHAT, DRAW])
def test_a_client_that_goes_away_leaves_the_batch(engine, path, streams) -> None:
    body = {"prompt": "a cat", "n": 2, "partial_images": 8} if path == DRAW else chat_body(max_tokens=150)
    data = json.dumps({**body, "stream": streams} if streams or path == CHAT else {"prompt": "a cat", "n": 2}).encode()
    with run_server(engine) as running, slow(running):
        scheduler = running.service.worker.scheduler
        with connected(running.port) as it:
            it.sendall(head(path, len(data)) + data)
            until(lambda: scheduler.running and len(scheduler.running[0].ids) >= 3)
            request = scheduler.running[0]
        left_at = len(request.ids)
        running.settles()
        assert request.cancelled and len(request.ids) <= left_at + 3 < request.num_new
        assert ask(running.client(), "a red cat").choices[0].message.content == alone(engine, ["a red cat"])


def test_a_client_that_leaves_the_queue_is_not_run(engine) -> None:
    with run_server(engine) as running:
        with held(running):
            data = json.dumps(chat_body()).encode()
            with connected(running.port) as it:
                it.sendall(head(CHAT, len(data)) + data)
                until(lambda: running.service.worker.num_waiting == 1)
            until(lambda: running.service.worker.num_waiting == 0)
        running.settles()
        assert running.service.metrics.ids.labels("text")._value.get() == 0


def everything(it) -> bytes:
    """What can still be read of a dropped connection."""
    data = b""
    with suppress(ConnectionError):
        while chunk := it.recv(65536):
            data += chunk
    return data


@contextmanager
def stalled(running):
    """A client that asks for more than the socket's buffers hold, and reads nothing."""
    for listener in running.server.servers[0].sockets:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    body = {"prompt": "a cat", "n": 8, "stream": True, "partial_images": 16, "guidance_scale": 1}
    data = json.dumps(body).encode()
    with connected(running.port, receive_buffer=4096) as it, slow(running, 0.2):  # painting keeps up
        it.sendall(head(DRAW, len(data)) + data)
        until(lambda: any(c.flow.write_paused for c in list(running.server.server_state.connections)))
        yield it


def test_a_slow_reader_does_not_hold_the_batch_up(engine) -> None:
    with run_server(engine, Limits(stall_seconds=1e6)) as running:
        with stalled(running):
            assert ask(running.client(), "a red cat").choices[0].message.content == alone(engine, ["a red cat"])
            until(lambda: not running.service.worker.scheduler.owner)
            assert len(running.service.worker.open) == 1
        running.settles()


def test_a_reader_that_takes_nothing_is_dropped(engine) -> None:
    with run_server(engine, Limits(stall_seconds=0.5)) as running:
        with stalled(running) as it:
            until(lambda: not running.service.worker.open)
            assert b"completed" not in everything(it)
        running.settles()


@pytest.mark.parametrize("streams", [False, True])
def test_a_fault_in_one_request_fails_it_alone(engine, monkeypatch, caplog, streams) -> None:
    """Out of memory in the eye, and a fault of ours that quotes the user."""
    embed = engine.model.embed
    faults = {"oom": torch.OutOfMemoryError("CUDA out of memory"), "bug": RuntimeError("failed on 'my secret'")}
    current = {}

    def faulty(batch):
        if batch.pixels is not None:
            raise current["fault"]
        return embed(batch)

    monkeypatch.setattr(engine.model, "embed", faulty)
    logging.getLogger("openjanus.serve").propagate = True
    with run_server(engine) as running, slow(running, 0.01), ThreadPoolExecutor(4) as pool:
        client = running.client()
        well = [pool.submit(ask, client, "a red cat") for _ in range(2)]
        for name, status, code in (("oom", 503, "out_of_memory"), ("bug", 500, "internal_error")):
            current["fault"] = faults[name]
            with pytest.raises(openai.InternalServerError) as error:
                ask(client, [picture_part(RED), {"type": "text", "text": "my secret"}], stream=streams)
            assert (error.value.status_code, error.value.code) == (status, code)
            assert "secret" not in str(error.value) and "CUDA" not in str(error.value)
        wanted = alone(engine, ["a red cat"])
        assert [f.result().choices[0].message.content for f in well] == [wanted] * 2
    assert "fault RuntimeError" in caplog.text and "secret" not in caplog.text


def test_a_fault_while_a_picture_is_decoded_fails_that_drawing(engine, monkeypatch) -> None:
    decode = engine.decode_images
    fails = {"now": True}

    def faulty(ids):
        if fails["now"]:
            raise torch.OutOfMemoryError("no")
        return decode(ids)

    monkeypatch.setattr(engine, "decode_images", faulty)
    with run_server(engine) as running:
        client = running.client()
        for streams in (False, True):
            with pytest.raises(openai.InternalServerError) as error:
                client.images.generate(prompt="a cat", stream=streams)
            assert error.value.code == "out_of_memory"
        fails["now"] = False
        answer = client.images.generate(prompt="a cat", extra_body={"seed": 1})
        assert np.array_equal(np.asarray(picture_of(answer.data[0].b64_json)), drawn_alone(engine, "a cat", seed=1)[0])


def test_a_fault_amid_a_stream_ends_it_with_an_error(engine) -> None:
    with run_server(engine) as running:
        scheduler = running.service.worker.scheduler
        logits = scheduler._next_logits

        def faulty(plan):
            if len(scheduler.running[0].ids) == 5:
                raise torch.OutOfMemoryError("no")
            return logits(plan)

        scheduler._next_logits = faulty
        with pytest.raises(openai.APIError, match="out of memory"):
            list(ask(running.client(), "a red cat", stream=True))
        scheduler._next_logits = logits
        running.settles()
        assert ask(running.client(), "a red cat").choices[0].message.content == alone(engine, ["a red cat"])


def test_a_broken_engine_says_so(engine) -> None:
    with run_server(engine) as running:
        running.service.worker.scheduler.step = lambda: 1 / 0
        client = running.client()
        with pytest.raises(openai.InternalServerError):
            ask(client, "a red cat")
        with pytest.raises(openai.InternalServerError) as error:
            ask(client, "a red cat")
        assert error.value.code == "engine_failed"
        assert send(running.port, "/health", b"", "GET")[0] == 503


def test_a_request_that_takes_too_long_ends(engine) -> None:
    with run_server(engine, Limits(request_seconds=0.4)) as running, slow(running, 0.05):
        client = running.client()
        with pytest.raises(openai.InternalServerError) as error:
            ask(client, "a red cat", max_tokens=100)
        assert (error.value.status_code, error.value.code) == (504, "timeout")
        with pytest.raises(openai.APIError, match="took longer than"):
            list(ask(client, "a red cat", max_tokens=100, stream=True))
        running.settles()


def slow_to_paint(engine, monkeypatch, seconds: float) -> None:
    decode = engine.decode_images
    monkeypatch.setattr(engine, "decode_images", lambda ids: (time.sleep(seconds), decode(ids))[1])


@pytest.mark.parametrize("streams", [False, True])
def test_a_drawing_that_takes_too_long_says_so(engine, monkeypatch, streams) -> None:
    """Also if time is over while a picture is painted, whole or not."""
    slow_to_paint(engine, monkeypatch, 0.25)
    with run_server(engine, Limits(request_seconds=0.6)) as running, slow(running, 0.01):
        for partials in (None, 12) if streams else (None,):
            with pytest.raises(openai.APIError) as error:
                extra = {"partial_images": partials, "stream": True} if streams else {}
                drawn = running.client().images.generate(prompt="a cat", n=6, **extra)
                list(drawn)
            assert error.value.code == "timeout" and "took longer than 0.6 seconds" in error.value.message
        running.settles()
        wanted = 2 if streams else 1
        until(lambda: counted(running, "openjanus_errors_total", code="timeout") == wanted)
        assert not counted(running, "openjanus_errors_total", code="internal_error")


def counted(running, name: str, **labels: str) -> float:
    return running.service.metrics.registry.get_sample_value(name, labels) or 0.0


def test_a_request_that_failed_is_never_done(engine) -> None:
    """Its handler may sleep over both: the failure, and the step in which the batch lets the request go."""
    ticket = Ticket()
    ticket.request = engine.answer([{"role": "user", "content": "a red cat"}], SamplingOptions(), 5)
    ticket.fail(ApiError(504, "too long", "timeout"))
    ticket.wake(True)
    assert not ticket.is_done
    with pytest.raises(ApiError, match="too long"):
        run_coroutine(ticket.changed())


def test_metrics_tell_an_error_inside_a_stream(engine) -> None:
    with run_server(engine, Limits(request_seconds=0.4)) as running, slow(running, 0.05):
        with pytest.raises(openai.APIError, match="took longer than"):
            list(ask(running.client(), "a red cat", max_tokens=100, stream=True))
        running.settles()
        until(lambda: counted(running, "openjanus_requests_total", endpoint=CHAT, status="504"))
        assert not counted(running, "openjanus_requests_total", endpoint=CHAT, status="200")
        assert counted(running, "openjanus_errors_total", code="timeout") == 1


def test_metrics_tell_a_client_that_left_amid_a_stream(engine) -> None:
    data = json.dumps(chat_body(max_tokens=150, stream=True)).encode()
    with run_server(engine) as running, slow(running):
        with connected(running.port) as it:
            it.sendall(head(CHAT, len(data)) + data)
            it.recv(200)
        until(lambda: counted(running, "openjanus_requests_total", endpoint=CHAT, status="499"))
        assert not counted(running, "openjanus_requests_total", endpoint=CHAT, status="200")


def test_refusals_do_not_make_answers_look_quick(engine) -> None:
    with run_server(engine, Limits(max_waiting=1)) as running, ThreadPoolExecutor(1) as pool:
        with held(running):
            first = pool.submit(ask, running.client(), "a red cat")
            until(lambda: running.service.worker.num_waiting == 1)
            for _ in range(5):
                assert send(running.port, CHAT, chat_body())[0] == 429
            assert send(running.port, CHAT, {"messages": 3})[0] == 400
        first.result()
        until(lambda: counted(running, "openjanus_requests_total", endpoint=CHAT, status="200"))
        assert counted(running, "openjanus_request_seconds_count", endpoint=CHAT) == 1
        assert counted(running, "openjanus_errors_total", code="queue_full") == 5
        assert counted(running, "openjanus_requests_total", endpoint=CHAT, status="429") == 5


BROKEN = {
    "nothing": b"",
    "half": b'{"messages": [',
    "list": b"[]",
    "number": b"7",
    "deep": b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "not utf-8": b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "surrogate": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "nan": b'{"messages": [{"role": "user", "content": "hi"}], "temperature": NaN}',
    "huge number": b'{"messages": [{"role": "user", "content": "hi"}], "seed": ' + b"9" * 5000 + b"}",
    "wrong role": b'{"messages": [{"role": "tool", "content": "hi"}]}',
    "wrong part": b'{"messages": [{"role": "user", "content": [{"type": "video"}]}]}',
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_json(served, name) -> None:
    status, headers, body = send(served.port, CHAT, BROKEN[name])
    assert status == 400 and headers["content-type"] == "application/json"
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["type"] == "invalid_request_error"


def test_other_addresses_and_methods_have_the_apis_errors(served) -> None:
    for path, method, status in (("/v1/nothing", "POST", 404), (CHAT, "GET", 405), ("/health", "DELETE", 405)):
        got, _, body = send(served.port, path, b"", method)
        assert got == status and set(body["error"]) == {"message", "type", "param", "code"}
    status, _, body = send(served.port, CHAT, chat_body(), Content_Type="text/plain")
    assert status == 400 and body["error"]["type"] == "invalid_request_error"


def bomb(side: int) -> bytes:
    """A small PNG that declares a large picture."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" * 1000)),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png(side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(file, "PNG")
    return file.getvalue()


def url_of(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


BAD_PICTURES = {
    "no picture": (url_of(b"hello"), "invalid_image"),
    "half a picture": (url_of(png()[:40]), "invalid_image"),
    "bomb": (url_of(bomb(60_000)), "invalid_image"),
    "large": (url_of(png(101)), "invalid_image"),
    "a format that is not read": (url_of(b"BM" + png()), "invalid_image"),
    "not base64": ("data:image/png;base64,???", "invalid_image"),
    "not a data url": ("data:image/png,abc", "invalid_image_url"),
    "a path": ("/etc/passwd", "invalid_image_url"),
    "a file": ("file:///etc/passwd", "invalid_image_url"),
    "remote": ("http://127.0.0.1/a.png", "remote_images_off"),
    "large file": (url_of(b"x" * 30_000), "image_too_large"),
}


@pytest.fixture(scope="module")
def strict(engine):
    limits = Limits(
        max_picture_pixels=10_000, max_picture_bytes=20_000, max_pictures=2, max_body_bytes=100_000,
        max_prompt_chars=500, body_seconds=0.5, header_seconds=0.5,
    )  # fmt: skip
    with run_server(engine, limits) as running:
        yield running


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_pictures_are_refused_and_named(strict, name) -> None:
    url, code = BAD_PICTURES[name]
    with pytest.raises(openai.BadRequestError) as error:
        ask(strict.client(), [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url}}])
    assert error.value.code == code and error.value.param == "messages.0.content.1.image_url"
    assert "passwd" not in str(error.value)


def test_too_many_pictures_and_too_many_words(strict) -> None:
    for content, code in (
        ([picture_part(RED)] * 3, "too_many_images"),
        ("cat " * 200, "context_length_exceeded"),
    ):
        with pytest.raises(openai.BadRequestError) as error:
            ask(strict.client(), content)
        assert error.value.code == code


def test_bodies_too_large_or_too_slow(strict) -> None:
    status, headers, body = send(strict.port, CHAT, b"x" * 100_001)
    assert (status, body["error"]["code"], headers["connection"]) == (413, "body_too_large", "close")
    with connected(strict.port) as it:  # promises much, sends nothing
        it.sendall(head(CHAT, 10**12))
        assert answer(it)[0] == 413
    with connected(strict.port) as it:  # chunked, without a length
        it.sendall(head(CHAT, None, Transfer_Encoding="chunked"))
        for _ in range(4):
            it.sendall(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
        assert answer(it)[0] == 413
    with connected(strict.port) as it:
        it.sendall(head(CHAT, 100) + b"{")
        status, _, body = answer(it)
        assert (status, body["error"]["code"]) == (408, "body_too_slow")


def test_connections_that_send_no_head_are_closed(strict) -> None:
    with connected(strict.port) as silent, connected(strict.port) as slow_one:
        for byte in b"POST":
            slow_one.sendall(bytes([byte]))
            time.sleep(0.1)
        for it in (silent, slow_one):
            assert everything(it) == b""


def test_everything_at_once(engine) -> None:
    """Healthy requests of both kinds among all that is above; each has its answer, and /health never fails."""
    limits = Limits(max_waiting=40, max_body_bytes=200_000, body_seconds=1, header_seconds=1, max_picture_pixels=10_000)
    stop, health = threading.Event(), []

    def watch(port: int) -> None:
        while not stop.is_set():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as got:
                health.append(got.status)
            time.sleep(0.02)

    def kill_amid(port: int, i: int) -> None:
        body = (
            {"prompt": "a cat", "stream": True, "partial_images": 8} if i % 2 else chat_body(stream=True, max_tokens=90)
        )
        data = json.dumps(body).encode()
        with connected(port) as it:
            it.sendall(head(DRAW if i % 2 else CHAT, len(data)) + data)
            it.recv(200)

    def evil(port: int, i: int) -> None:
        kind = i % 6
        if kind == 0:
            kill_amid(port, i // 6)
        elif kind == 1:
            assert send(port, CHAT, list(BROKEN.values())[i % len(BROKEN)])[0] in (400, 413, 429)
        elif kind == 2:
            url = list(BAD_PICTURES.values())[i % len(BAD_PICTURES)][0]
            part = {"type": "image_url", "image_url": {"url": url}}
            assert send(port, CHAT, {"messages": [{"role": "user", "content": [part]}]})[0] in (400, 429)
        elif kind == 3:
            assert send(port, DRAW, b"x" * 200_001)[0] in (413, 429)
        elif kind == 4:
            with connected(port) as it:
                it.sendall(head(CHAT, 500) + b"{")
                assert answer(it)[0] in (408, 429)
        else:
            assert send(port, DRAW, {"prompt": "a cat", "n": 2})[0] in (200, 429)

    def healthy(client, i: int):
        while True:
            try:
                if i % 2:
                    return text_of(ask(client, "a red cat", temperature=1.0, seed=i, stream=i % 4 == 1))
                extra = {"seed": i}
                *_, last = client.images.generate(prompt="a red car", stream=True, partial_images=2, extra_body=extra)
                return np.asarray(picture_of(last.b64_json))
            except openai.RateLimitError:
                time.sleep(0.05)

    with run_server(engine, limits, slots=12) as running, ThreadPoolExecutor(40) as pool:
        watcher = pool.submit(watch, running.port)
        client = running.client()
        bad = [pool.submit(evil, running.port, i) for i in range(60)]
        good = [pool.submit(healthy, client, i) for i in range(4, 20, 4)] + [
            pool.submit(healthy, client, i) for i in range(1, 33, 4)
        ]
        try:
            results = [f.result(timeout=120) for f in good]
            for f in bad:
                f.result(timeout=120)
        finally:
            stop.set()
        watcher.result(timeout=20)
        running.settles()
        assert set(health) == {200}
    for i, got in zip(range(4, 20, 4), results[:4], strict=True):
        assert np.array_equal(got, drawn_alone(engine, "a red car", seed=i)[0])
    for i, got in zip(range(1, 33, 4), results[4:], strict=True):
        assert got == alone(engine, ["a red cat"], temperature=1.0, seed=i)
