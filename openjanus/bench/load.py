"""Load test of the server, over HTTP on loopback: `openjanus bench serve`.

    alone: each request of the mix by itself, one at a time  ─► expected answers, and the throughput to compare with
    load:  many clients send requests of the mix for minutes ─► each answer compared, memory, throughput

Half of the requests are drawings, half answers about a picture; half of each are streamed. Every one has a seed.
"""

import base64
import http.client
import itertools
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from PIL import Image
from rich.console import Console

from openjanus.config import Config, PositiveFloat, PositiveInt, Range
from openjanus.source import ModelSource

CHAT, DRAW = "/v1/chat/completions", "/v1/images/generations"
NOUNS = ("two red apples", "a blue car", "a yellow star", "three pink hearts", "a green tree", "a white cat")
TIMEOUT_SECONDS = 600
console = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class BenchSettings(Config):
    """The settings of `openjanus bench serve`; see its help."""

    minutes: PositiveFloat = 10.0
    clients: PositiveInt = 32
    requests: Annotated[int, Range(2)] = 32
    url: str | None = None
    out: Path | None = None
    source: ModelSource = field(default_factory=ModelSource)


@dataclass(frozen=True)
class Load:
    """One request of the mix."""

    path: str
    body: str


@dataclass
class Report:
    """The result of a load test. `wrong` answers differ from the same request alone; `lost` ones failed or never
    came."""

    clients: int
    alone_per_second: float
    load_per_second: float
    speedup: float
    answers: int
    wrong: int
    lost: int
    refused: int
    memory_mib: list[float]  # mean of each tenth of the load
    memory_growth_mib: float  # mean of the second half minus mean of the second to fifth tenth
    seconds: float

    def __str__(self) -> str:
        return (
            f"alone: {self.alone_per_second:.2f} requests/s, one at a time\n"
            f"load: {self.load_per_second:.2f} requests/s with {self.clients} clients: {self.speedup:.2f}x\n"
            f"answers: {self.answers} in {self.seconds:.0f} s, {self.wrong} wrong, {self.lost} lost, "
            f"{self.refused} refused with 429 and sent again\n"
            f"memory: {self.memory_growth_mib:+.1f} MiB between the halves; MiB by tenths: "
            + ", ".join(f"{m:.0f}" for m in self.memory_mib)
        )


def run(s: BenchSettings) -> None:
    """Runs the test and prints its report. Raises ValueError if an answer was wrong or lost."""
    with _server(s) as url:
        report = measure(url, mix(s.requests), s.clients, s.minutes * 60)
    print(report)
    if s.out is not None:
        s.out.write_text(json.dumps(asdict(report), indent=1) + "\n")
    if report.wrong or report.lost:
        raise ValueError(f"{report.wrong} answers were wrong, {report.lost} were lost")


def measure(url: str, requests: list[Load], clients: int, seconds: float) -> Report:
    """Sends each request alone, then all clients at once."""
    started = time.monotonic()
    expected = []
    client = Client(url)
    for request in requests:
        status, answer = client.answer(request)
        if status != 200:
            raise ValueError(f"a request alone was answered {status}: nothing to compare with")
        expected.append(answer)
    client.close()
    alone = len(requests) / (time.monotonic() - started)
    console.print(f"[dim]{len(requests)} requests alone: {alone:.2f} a second; now {clients} clients[/dim]")
    outcomes, memory = Counter[str](), list[tuple[float, float]]()
    numbers, lock = itertools.count(), threading.Lock()
    started = time.monotonic()
    stop = started + seconds

    def ask() -> None:
        client = Client(url)
        while time.monotonic() < stop:
            with lock:
                number = next(numbers) % len(requests)
            outcome = _judge(client, requests[number], expected[number])
            with lock:
                outcomes[outcome] += 1
        client.close()

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    watcher = Client(url)
    while time.monotonic() < stop:
        memory.append((time.monotonic() - started, watcher.memory_mib()))
        time.sleep(min(2.0, seconds / 50))
    watcher.close()
    for thread in threads:
        thread.join()
    took = time.monotonic() - started
    answers = outcomes["right"] + outcomes["wrong"]
    tenths = _tenths(memory, seconds)
    growth = sum(tenths[5:]) / 5 - sum(tenths[1:5]) / 4
    return Report(
        clients, alone, answers / took, answers / took / alone, answers, outcomes["wrong"], outcomes["lost"],
        outcomes["refused"], tenths, growth, took,
    )  # fmt: skip


def _judge(client: "Client", request: Load, expected: object) -> str:
    try:
        status, answer = client.answer(request)
    except (OSError, http.client.HTTPException, ValueError):
        return "lost"
    if status == 429:
        time.sleep(0.2)
        return "refused"
    return "lost" if status != 200 else "right" if answer == expected else "wrong"


def mix(num: int) -> list[Load]:
    """`num` different requests, alternately drawings and answers; every second one of each kind is streamed."""
    requests = []
    for i in range(num):
        words, streams = NOUNS[i // 2 % len(NOUNS)], i // 2 % 2 == 1
        if i % 2 == 0:
            path, body = DRAW, {"prompt": words, "n": 1 + i // 2 % 2, "seed": i, "stream": streams}
            body |= {"partial_images": 4} if streams else {}
        else:
            part = {"type": "image_url", "image_url": {"url": _picture(i)}}
            content = [part, {"type": "text", "text": f"is it {words}? tell all that you see"}]
            path, body = CHAT, {
                "messages": [{"role": "user", "content": content}], "max_tokens": 128, "temperature": 1.0, "seed": i,
                "stream": streams,
            }  # fmt: skip
        requests.append(Load(path, json.dumps(body)))
    return requests


def _picture(seed: int) -> str:
    image = Image.linear_gradient("L").rotate(seed * 37).resize((64, 64)).convert("RGB")
    file = BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


class Client:
    """One client of the server. It keeps its connection, and opens a new one if the server has closed it."""

    def __init__(self, url: str):
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
        self.num_connections = 0

    def answer(self, request: Load) -> tuple[int, object]:
        """The status, and the reproducible part of the answer: the text, or the finished pictures."""
        response, raw = self._ask("POST", request.path, request.body)
        if response.status != 200:
            return response.status, None
        if response.headers.get_content_type() == "text/event-stream":
            return 200, _of_stream(raw.decode())
        answer = json.loads(raw)
        if request.path == DRAW:
            return 200, [picture["b64_json"] for picture in answer["data"]]
        return 200, answer["choices"][0]["message"]["content"]

    def memory_mib(self) -> float:
        """Resident memory of the server, from its metrics."""
        text = self._ask("GET", "/metrics")[1].decode()
        line = re.search(r"^process_resident_memory_bytes (\S+)", text, flags=re.MULTILINE)
        return float(line[1]) / 2**20 if line else float("nan")

    def close(self) -> None:
        self._connection.close()

    def _ask(self, method: str, path: str, body: str | None = None) -> tuple[http.client.HTTPResponse, bytes]:
        """The head of the response, and its body."""
        try:
            response = self._sent(method, path, body)
            return response, response.read()
        except BaseException:
            self._connection.close()
            raise

    def _sent(self, method: str, path: str, body: str | None) -> http.client.HTTPResponse:
        """Sends again on a new connection if the server closed the kept one at the same moment: that is no lost
        answer."""
        is_kept = self._connection.sock is not None
        self.num_connections += not is_kept
        try:
            self._connection.request(method, path, body, {"Content-Type": "application/json"})
            return self._connection.getresponse()
        except ConnectionError:
            if not is_kept:
                raise
            self._connection.close()
            return self._sent(method, path, body)


def _of_stream(text: str) -> object:
    """The reproducible part of a stream. Raises ValueError if it ended with an error or too early."""
    datas = re.findall(r"^data: (.*)$", text, flags=re.MULTILINE)
    events = [json.loads(data) for data in datas if data != "[DONE]"]
    if any("error" in event for event in events):
        raise ValueError("the stream ended with an error")
    if pictures := [e["b64_json"] for e in events if e.get("type") == "image_generation.completed"]:
        return pictures
    if datas[-1:] != ["[DONE]"]:
        raise ValueError("the stream broke off")
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


def _tenths(memory: list[tuple[float, float]], seconds: float) -> list[float]:
    parts: list[list[float]] = [[] for _ in range(10)]
    for at, mib in memory:
        parts[min(9, int(at / seconds * 10))].append(mib)
    return [sum(part) / len(part) if part else float("nan") for part in parts]


@contextmanager
def _server(s: BenchSettings) -> Iterator[str]:
    """The URL of the given server, or of one started here on a free port."""
    if s.url is not None:
        yield s.url.rstrip("/")
        return
    words = [sys.executable, "-m", "openjanus", "serve", "--port", "0", "--model", s.source.model]
    words += ["--device", s.source.device, "--threads", str(s.source.threads), "--weights", s.source.weights]
    words += ["--limits.max-in-flight", str(s.clients + 8), "--limits.max-waiting", str(s.clients + 8)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        lines: list[str] = []
        address = None
        while address is None:
            line = process.stderr.readline()
            if not line:
                raise ValueError(f"the server did not start: {' '.join(lines[-1:]).strip()}")
            lines.append(line)
            address = re.search(r"http://127\.0\.0\.1:\d+", line)
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield address[0]
    finally:
        process.terminate()
        process.wait(timeout=60)
