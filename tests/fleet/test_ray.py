"""Two replicas of the embedded engine behind Ray Serve, by the real command."""

import re
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pytest

pytest.importorskip("ray", reason="ray is not installed: make test-vllm has an environment with it")

from openjanus.processing.image import open_image
from openjanus.testing.on_vllm import PICTURES, Ask, Embedded
from openjanus.weights.hub import BUNDLED
from tests.fleet.serving import Served, ask, pixels_of, refused, start

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    arguments = ["--engine", "ray", "--fleet.replicas", "2", "--device", "cpu", "--threads", "1", "--slots", "8"]
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "OPENJANUS_API_KEY": "sesame"}
    with start(arguments, environment) as running:
        yield running


def test_two_replicas_answer_as_one_engine(server: Served) -> None:
    engine, client = Embedded(BUNDLED / "nano").engine, server.client("sesame")

    def drawn(k: int) -> list[bytes]:
        found = client.images.generate(prompt="two red apples", n=2, extra_body={"seed": k})
        return [pixels_of(image.b64_json).tobytes() for image in found.data]

    def said(k: int) -> str:
        return ask(client, Ask("what color is it?", PICTURES[k % 2]).messages()).choices[0].message.content

    numbers = range(6)
    with ThreadPoolExecutor(12) as pool:
        pictures, answers = pool.map(drawn, numbers), pool.map(said, numbers)
        pictures, answers = list(pictures), list(answers)
    ids = [engine.generate_ids("two red apples", n=2, seed=k) for k in numbers]
    # one by one, as the server decodes them: a picture's last bits depend on what is decoded beside it
    truth = [[engine.decode_images(row[None])[0] for row in rows] for rows in ids]
    assert pictures == [[np.asarray(image).tobytes() for image in images] for images in truth]
    assert answers == [engine.ask(open_image(PICTURES[k % 2]), "what color is it?") for k in numbers]


def test_both_replicas_work(server: Served) -> None:
    """Each has metrics of its own, with the time at which its process began."""
    seen: set[str] = set()
    end = time.monotonic() + 60
    while len(seen) < 2 and time.monotonic() < end:
        request = urllib.request.Request(f"{server.url}/metrics", headers={"Authorization": "Bearer sesame"})
        text = urllib.request.urlopen(request).read().decode()
        seen |= set(re.findall(r"^process_start_time_seconds (\S+)$", text, re.MULTILINE))
    assert len(seen) == 2


def test_streams_pass_through(server: Served) -> None:
    client = server.client("sesame")
    events = list(client.images.generate(prompt="a star", stream=True, partial_images=2))
    assert events[-1].type == "image_generation.completed" and len(events) > 1
    messages: Any = [{"role": "user", "content": "what is it?"}]
    chunks = list(ask(client, messages, stream=True))
    assert chunks[-1].choices[0].finish_reason


def test_guard_and_errors_pass_through(server: Served) -> None:
    with pytest.raises(openai.AuthenticationError):
        server.client("wrong").images.generate(prompt="a star")
    assert refused(lambda: server.client("sesame").images.generate(prompt=" "))[0] == 400
