"""How the server ends, and how it refuses to begin."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from openjanus.cli import main
from openjanus.serve.server import listen
from openjanus.weights import checkpoint
from tests import tiny
from tests.serve.conftest import run_server, until
from tests.serve.raw import answer, connected, head
from tests.serve.test_contract import alone, ask, text_of
from tests.serve.test_faults import CHAT, chat_body, counted, slow, slow_to_paint


def ends(running) -> None:
    running.loop.call_soon_threadsafe(lambda: setattr(running.server, "should_exit", True))


def test_running_requests_finish_and_new_ones_are_refused(engine) -> None:
    with run_server(engine) as running, slow(running, 0.05), ThreadPoolExecutor(4) as pool:
        client = running.client()
        stream = ask(client, "a red cat", stream=True, max_tokens=20)
        parts = [next(iter(stream))]
        whole = pool.submit(ask, client, "a red cat", max_tokens=20)
        until(lambda: len(running.service.worker.scheduler.running) == 2)
        data = json.dumps(chat_body()).encode()
        with connected(running.port) as late:  # a request whose head is there when the end begins
            late.sendall(head(CHAT, len(data)))
            until(lambda: len(running.server.server_state.connections) == 3)
            ends(running)
            until(lambda: not running.service.worker.is_accepting)
            late.sendall(data)
            status, _, refusal = answer(late)
        assert (status, refusal["error"]["code"]) == (503, "shutting_down")
        with pytest.raises(OSError), connected(running.port):
            pass
        wanted = alone(engine, ["a red cat"], 20)
        assert text_of([*parts, *stream]) == wanted
        assert whole.result().choices[0].message.content == wanted


def test_after_the_grace_time_running_requests_end_with_an_error(engine) -> None:
    with run_server(engine) as running, slow(running, 0.1), ThreadPoolExecutor(4) as pool:
        running.server.grace_seconds = 0.3
        client = running.client()
        stream = ask(client, "a red cat", stream=True, max_tokens=180)
        next(iter(stream))
        whole = pool.submit(client.images.generate, prompt="a cat")
        until(lambda: len(running.service.worker.scheduler.running) == 2)
        ends(running)
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        with pytest.raises(openai.InternalServerError) as error:
            whole.result()
        assert (error.value.status_code, error.value.code) == (503, "shutting_down")


def test_a_drawing_that_is_painted_when_the_grace_time_ends_says_why(engine, monkeypatch) -> None:
    slow_to_paint(engine, monkeypatch, 0.4)
    with run_server(engine) as running, slow(running, 0.01):
        running.server.grace_seconds = 0.3
        drawing = running.client().images.generate(prompt="a cat", n=4, stream=True, partial_images=12)
        next(iter(drawing))
        ends(running)
        with pytest.raises(openai.APIError, match="shutting down") as error:
            list(drawing)
        assert error.value.code == "shutting_down"
        assert not counted(running, "openjanus_errors_total", code="internal_error")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve") / "model"
    checkpoint.save(tiny.checkpoint(), folder)
    return folder


def test_sigterm_under_load_ends_the_process_and_loses_no_answer(model, engine) -> None:
    words = [sys.executable, "-m", "openjanus", "serve", "--port", "0", "--model", str(model), "--name", "tiny"]
    process = subprocess.Popen([*words, "--device", "cpu"], stderr=subprocess.PIPE, text=True, env={**os.environ})
    try:
        assert process.stderr is not None
        found = None
        while found is None:
            line = process.stderr.readline()
            assert line, "the server ended before it was there"
            found = re.search(r"(http://127\.0\.0\.1:\d+)", line)
        threading.Thread(target=process.stderr.read, daemon=True).start()
        client = openai.OpenAI(base_url=f"{found[1]}/v1", api_key="none", max_retries=0, timeout=90)
        wanted = alone(engine, ["a red cat"], 150)
        with ThreadPoolExecutor(6) as pool:
            streams = [iter(ask(client, "a red cat", stream=True, max_tokens=150)) for _ in range(6)]
            firsts = [next(stream) for stream in streams]
            texts = [pool.submit(text_of, [first]) for first in firsts]
            rest = [pool.submit(lambda s=s: text_of(list(s))) for s in streams]
            process.send_signal(signal.SIGTERM)
            got = [a.result() + b.result() for a, b in zip(texts, rest, strict=True)]
        assert got == [wanted] * 6
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()


def refused(capsys, *words) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["serve", "--device", "cpu", *map(str, words)])
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_model_that_is_missing_or_broken_is_told_before_the_socket_opens(
    model, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("openjanus.serve.server.listen", lambda *_: pytest.fail("the socket was opened"))
    assert "no such folder" in refused(capsys, "--model", tmp_path / "none")
    broken = tmp_path / "broken"
    checkpoint.save(tiny.checkpoint(), broken)
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:5000])
    assert "model.safetensors" in refused(capsys, "--model", broken)
    assert "positions is 9999" in refused(capsys, "--model", model, "--positions", 9999)
    assert "cannot read API keys" in refused(capsys, "--model", model, "--api-keys", tmp_path / "none")


def test_a_port_that_is_taken(model, capsys) -> None:
    taken = listen("127.0.0.1", 0)
    assert "cannot listen on 127.0.0.1" in refused(capsys, "--model", model, "--port", taken.getsockname()[1])
    taken.close()
    assert "cannot listen on" in refused(capsys, "--model", model, "--port", 70000)
    started = time.monotonic()
    assert "cannot listen on" in refused(capsys, "--model", model, "--host", "no such host")
    assert time.monotonic() - started < 60
