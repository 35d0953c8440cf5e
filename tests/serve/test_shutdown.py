"""How the server ends, and how it refuses to begin."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from openjanus.cli import main
from openjanus.cli.options import ModelOptions
from openjanus.serve import server
from openjanus.serve.server import bind
from openjanus.serve.signals import handled
from openjanus.weights import checkpoint
from tests import tiny
from tests.serve.conftest import run_server, until
from tests.serve.raw import answer, connected, head, send
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
        status, headers, refusal = send(running.port, CHAT, chat_body())
        assert (status, refusal["error"]["code"], headers["retry-after"]) == (503, "shutting_down", "1")
        assert send(running.port, "/ready", b"", "GET")[0] == 503
        assert send(running.port, "/health", b"", "GET")[0] == 200
        wanted = alone(engine, ["a red cat"], 20)
        assert text_of([*parts, *stream]) == wanted
        assert whole.result().choices[0].message.content == wanted
    with pytest.raises(OSError), connected(running.port):
        pass


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


@dataclass
class Process:
    """`openjanus serve` in a process of its own. said: the lines that it wrote so far."""

    popen: subprocess.Popen
    pid: int
    said: list[str]

    def waits_for(self, words: str) -> str:
        """The first line with these words."""
        until(lambda: any(words in line for line in self.said) or self.popen.poll() is not None, 120)
        found = [line for line in self.said if words in line]
        assert found, f"it ended: {self.said}"
        return found[0]

    def client(self) -> openai.OpenAI:
        url = re.search(r"http://127\.0\.0\.1:\d+", self.waits_for("http://127.0.0.1"))
        assert url
        return openai.OpenAI(base_url=f"{url[0]}/v1", api_key="none", max_retries=0, timeout=90)

    def gets(self, *numbers: int) -> None:
        for number in numbers:
            os.kill(self.pid, number)
            time.sleep(0.15)

    def ends_with(self) -> int:
        """The exit code of a process that left no traceback."""
        code = self.popen.wait(timeout=60)
        assert not any("Traceback" in line or "terminate called" in line for line in self.said), "".join(self.said)
        return code


# A model that takes forever to load.
LOADS = """
import sys, time
from openjanus.cli import main
from openjanus.cli.options import ModelOptions
ModelOptions.engine = lambda _: (print("loading", file=sys.stderr, flush=True), time.sleep(600))
main()
"""


# An import that takes forever.
IMPORTS = """
import runpy, sys, time
class Slow:
    def find_spec(name, path, target=None):
        if name == "openjanus.cli":
            print("importing", file=sys.stderr, flush=True)
            time.sleep(600)
sys.meta_path.insert(0, Slow)
runpy.run_module("openjanus", run_name="__main__")
"""


@contextmanager
def process(model, before: Sequence[str] = (), start: Sequence[str] = ("-m", "openjanus")):
    """before: a command that starts it, as its one child."""
    words = [*before, sys.executable, *start, "serve", "--port", "0", "--model", str(model), "--name", "tiny"]
    with subprocess.Popen([*words, "--device", "cpu"], stderr=subprocess.PIPE, text=True) as popen:
        said: list[str] = []

        def read() -> None:
            assert popen.stderr is not None
            for line in popen.stderr:
                said.append(line)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            pid = popen.pid
            if before:
                children = Path(f"/proc/{pid}/task/{pid}/children")
                until(lambda: children.read_text().split())
                pid = int(children.read_text().split()[0])
            yield Process(popen, pid, said)
        finally:
            popen.kill()
            reader.join(timeout=20)


def streams_under(running: Process, *numbers: int) -> list[str | None]:
    """What four clients read when these signals come while they read; None for an answer that ended with an error."""

    def rest(stream) -> str | None:
        try:
            return text_of(list(stream))
        except openai.APIError as error:
            assert error.code == "shutting_down"
            return None

    client = running.client()
    with ThreadPoolExecutor(4) as pool:
        streams = [iter(ask(client, "a red cat", stream=True, max_tokens=150)) for _ in range(4)]
        firsts = [text_of([next(stream)]) for stream in streams]
        ends = [pool.submit(rest, stream) for stream in streams]
        running.gets(*numbers)
        ended = [end.result() for end in ends]
    return [None if end is None else first + end for first, end in zip(firsts, ended, strict=True)]


INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@pytest.mark.parametrize(
    "numbers",
    [[INT], [TERM, TERM], [HUP, HUP], *(pytest.param(n, marks=pytest.mark.slow) for n in ([TERM], [HUP], [INT, TERM]))],
)
def test_a_signal_under_load_ends_the_process_and_loses_no_answer(model, engine, numbers) -> None:
    with process(model) as running:
        assert streams_under(running, *numbers) == [alone(engine, ["a red cat"], 150)] * 4
        assert running.ends_with() == 0


@pytest.mark.parametrize(
    "numbers", [[INT, INT], *(pytest.param(n, marks=pytest.mark.slow) for n in ([TERM, INT], [HUP, INT, INT]))]
)
def test_ctrl_c_while_the_server_ends_ends_it_at_once(model, engine, numbers) -> None:
    with process(model) as running:
        assert streams_under(running, *numbers) == [None] * 4
        assert running.ends_with() == 130


@pytest.mark.parametrize("number", [INT, TERM, HUP])
def test_a_signal_while_the_model_loads_ends_the_process_at_once(model, number) -> None:
    with process(model, start=("-c", LOADS)) as running:
        running.waits_for("loading")
        os.kill(running.pid, number)
        assert running.ends_with() == 128 + number
        until(lambda: f"ended by {number.name} before the server was ready\n" in running.said)


UNSHARE = ["unshare", "--pid", "--fork", "--kill-child"]
if os.geteuid() != 0:
    UNSHARE += ["--user", "--map-root-user"]
HAS_NAMESPACES = shutil.which("unshare") and subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not HAS_NAMESPACES, reason="this machine lets nobody make a namespace of processes")
@pytest.mark.parametrize("number", [TERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (HUP, INT))])
def test_process_1_hears_signals_while_it_loads_and_while_it_serves(model, engine, number) -> None:
    with process(model, UNSHARE, ("-c", LOADS)) as running:
        running.waits_for("loading")
        os.kill(running.pid, number)
        assert running.ends_with() == 128 + number
    with process(model, UNSHARE) as running:
        assert streams_under(running, number) == [alone(engine, ["a red cat"], 150)] * 4
        assert running.ends_with() == 0


@pytest.mark.skipif(not HAS_NAMESPACES, reason="this machine lets nobody make a namespace of processes")
@pytest.mark.parametrize("number", [TERM, HUP])
def test_process_1_hears_signals_before_it_has_imported_anything(model, number) -> None:
    with process(model, UNSHARE, ("-c", IMPORTS)) as running:
        running.waits_for("importing")
        os.kill(running.pid, number)
        assert running.ends_with() == 128 + number


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    """As nohup(1) leaves it."""
    before = signal.signal(HUP, signal.SIG_IGN)
    try:
        heard: list[int] = []
        with pytest.raises(LookupError), handled(heard.append):
            signal.raise_signal(HUP)
            signal.raise_signal(TERM)
            raise LookupError  # what was there before is back then
        assert heard == [TERM] and signal.getsignal(HUP) is signal.SIG_IGN
    finally:
        signal.signal(HUP, before)


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
    monkeypatch.setattr("openjanus.serve.server._open", lambda *_: pytest.fail("the socket was opened"))
    assert "no such folder" in refused(capsys, "--model", tmp_path / "none")
    broken = tmp_path / "broken"
    checkpoint.save(tiny.checkpoint(), broken)
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:5000])
    assert "model.safetensors" in refused(capsys, "--model", broken)
    assert "positions is 9999" in refused(capsys, "--model", model, "--positions", 9999)
    assert "cannot read API keys" in refused(capsys, "--model", model, "--api-keys", tmp_path / "none")


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(model, capsys, monkeypatch) -> None:
    monkeypatch.setattr(ModelOptions, "engine", lambda _: pytest.fail("the model was loaded"))
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        assert "cannot listen on 127.0.0.1" in refused(capsys, "--model", model, "--port", taken.getsockname()[1])
    assert "port is 70000, expected 0 to 65535" in refused(capsys, "--model", model, "--port", 70000)
    started = time.monotonic()
    assert "cannot listen on" in refused(capsys, "--model", model, "--host", "no such host")
    assert time.monotonic() - started < 60


def test_nobody_can_connect_before_the_model_is_there() -> None:
    with bind("127.0.0.1", 0) as bound, pytest.raises(ConnectionRefusedError):
        socket.create_connection(bound.getsockname(), 5)


def test_a_port_that_two_servers_took_at_once_is_told_to_the_slower_one() -> None:
    with bind("127.0.0.1", 0) as first, bind("127.0.0.1", first.getsockname()[1]) as second:
        first.listen()
        with pytest.raises(ValueError, match=r"cannot listen on 127\.0\.0\.1"):
            server._open(second, *second.getsockname())
