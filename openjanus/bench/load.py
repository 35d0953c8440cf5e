"""Load test of the server, over HTTP on loopback: `openjanus bench serve`.

    alone: each request of the mix by itself, one at a time ─► its right answer, and the throughput to beat
    load:  many clients draw from the same mix for minutes  ─► each answer compared, memory watched, throughput

Half of the requests are drawings, half answers about a picture, some of each streamed; every one has its seed.
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
from openjanus.inference.source import ModelSource

CHAT, DRAW = "/v1/chat/completions", "/v1/images/generations"
NOUNS = ("two red apples", "a blue car", "a yellow star", "three pink hearts", "a green tree", "a white cat")
TIMEOUT_SECONDS = 600
console = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class BenchSettings(Config):
    """What `openjanus bench serve` takes; see its help."""

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
    """What came of a run. `wrong` answers differ from the same request alone; `lost` ones never came."""

    clients: int
    alone_per_second: float
    load_per_second: float
    speedup: float
    answers: int
    wrong: int
    lost: int
    refused: int
    memory_mib: list[float]  # mean of each tenth of the load
    memory_growth_mib: float  # second half of the load against the part before it, the first tenth left out
    seconds: float

    def __str__(self) -> str:
        return (
            f"alone: {self.alone_per_second:.2f} requests/s, one at a time\n"
            f"load: {self.load_per_second:.2f} requests/s with {self.clients} clients: {self.speedup:.2f}x\n"
            f"answers: {self.answers} in {self.seconds:.0f} s, {self.wrong} wrong, {self.lost} lost, "
            f"{self.refused} refused with 429 and asked again\n"
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
    """Each request alone, then all clients at once."""
    started = time.monotonic()
    right = []
    client = Client(url)
    for request in requests:
        status, answer = client.answer(request)
        if status != 200:
            raise ValueError(f"a request alone was answered {status}: nothing to compare with")
        right.append(answer)
    client.close()
    alone = len(requests) / (time.monotonic() - started)
    console.print(f"[dim]{len(requests)} requests alone: {alone:.2f} a second; now {clients} clients[/dim]")
    found, memory = Counter[str](), list[tuple[float, float]]()
    numbers, lock = itertools.count(), threading.Lock()
    started = time.monotonic()
    stop = started + seconds

    def ask() -> None:
        client = Client(url)
        while time.monotonic() < stop:
            with lock:
                number = next(numbers) % len(requests)
            kind = _judge(client, requests[number], right[number])
            with lock:
                found[kind] += 1
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
    answers = found["right"] + found["wrong"]
    tenths = _tenths(memory, seconds)
    growth = sum(tenths[5:]) / 5 - sum(tenths[1:5]) / 4
    return Report(
        clients, alone, answers / took, answers / took / alone, answers, found["wrong"], found["lost"],
        found["refused"], tenths, growth, took,
    )  # fmt: skip


def _judge(client: "Client", request: Load, right: object) -> str:
    try:
        status, got = client.answer(request)
    except (OSError, http.client.HTTPException, ValueError):
        return "lost"
    if status == 429:
        time.sleep(0.2)
        return "refused"
    return "lost" if status != 200 else "right" if got == right else "wrong"


def mix(num: int) -> list[Load]:
    """`num` different requests, drawings and answers in turn, every other of each kind streamed."""
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
    """One client of the server. It keeps its connection, and makes a new one where the server has closed it."""

    def __init__(self, url: str):
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
        self.num_connections = 0

    def answer(self, request: Load) -> tuple[int, object]:
        """Status, and what of the answer must be the same each time: the text, or the finished pictures."""
        response, raw = self._ask("POST", request.path, request.body)
        if response.status != 200:
            return response.status, None
        if response.headers.get_content_type() == "text/event-stream":
            return 200, _of_stream(raw.decode())
        told = json.loads(raw)
        if request.path == DRAW:
            return 200, [picture["b64_json"] for picture in told["data"]]
        return 200, told["choices"][0]["message"]["content"]

    def memory_mib(self) -> float:
        """Resident memory of the server, as its metrics tell."""
        text = self._ask("GET", "/metrics")[1].decode()
        found = re.search(r"^process_resident_memory_bytes (\S+)", text, flags=re.MULTILINE)
        return float(found[1]) / 2**20 if found else float("nan")

    def close(self) -> None:
        self._connection.close()

    def _ask(self, method: str, path: str, body: str | None = None) -> tuple[http.client.HTTPResponse, bytes]:
        """The head of the answer, and its body."""
        try:
            response = self._sent(method, path, body)
            return response, response.read()
        except BaseException:
            self._connection.close()
            raise

    def _sent(self, method: str, path: str, body: str | None) -> http.client.HTTPResponse:
        """The server may close a kept connection just as it is used again: that is no lost answer."""
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
    """Raises ValueError for a stream that ended with an error or too early."""
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
    """A server of our own on a free port, unless one is given."""
    if s.url is not None:
        yield s.url.rstrip("/")
        return
    words = [sys.executable, "-m", "openjanus", "serve", "--port", "0", "--model", s.source.model]
    words += ["--device", s.source.device, "--threads", str(s.source.threads), "--weights", s.source.weights]
    words += ["--limits.max-in-flight", str(s.clients + 8), "--limits.max-waiting", str(s.clients + 8)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said: list[str] = []
        found = None
        while found is None:
            line = process.stderr.readline()
            if not line:
                raise ValueError(f"the server did not start: {' '.join(said[-1:]).strip()}")
            said.append(line)
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield found[0]
    finally:
        process.terminate()
        process.wait(timeout=60)
