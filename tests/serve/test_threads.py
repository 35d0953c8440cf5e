"""Threads and cores: the engine computes with all that were asked for, the readers and the decoder with one."""

import base64
import re
import threading
from collections.abc import Callable
from io import BytesIO
from typing import TypeVar

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

import torch
from PIL import Image

from openjanus.runtime import Runtime, one_core_pool
from openjanus.serve.service import Service
from openjanus.serve.settings import ServerSettings
from tests.serve.conftest import run_server

T = TypeVar("T")


def counts() -> tuple[int, int]:
    """Threads that torch's own operations and MKL's products use in the calling thread."""
    mkl = re.search(r"mkl_get_max_threads\(\) : (\d+)", torch.__config__.parallel_info())
    return torch.get_num_threads(), int(mkl[1]) if mkl else torch.get_num_threads()


def watch(monkeypatch, owner: object, name: str, found: set[tuple[str, tuple[int, int]]]) -> None:
    """Notes in which thread a method runs, and with how many cores."""
    method = getattr(owner, name)

    def watched(*arguments, **settings):
        result = method(*arguments, **settings)  # first: a thread takes its number over at its first operation
        found.add((re.sub(r"_\d+$", "", threading.current_thread().name), counts()))
        return result

    monkeypatch.setattr(owner, name, watched)


@pytest.mark.parametrize("num_threads", [2, 3])
def test_the_engine_computes_with_the_threads_asked_for(engine, monkeypatch, num_threads) -> None:
    Runtime.choose("cpu", num_threads=num_threads)
    found: set[tuple[str, tuple[int, int]]] = set()
    watch(monkeypatch, engine.processor, "prompt", found)
    watch(monkeypatch, engine.model, "embed", found)
    watch(monkeypatch, engine.model.language_model, "forward", found)
    watch(monkeypatch, engine.model.generation.tokenizer, "decode", found)
    file = BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    with run_server(engine) as running:
        client = running.client()
        for _ in range(3):  # every reader has run
            client.chat.completions.create(model="tiny", messages=messages, max_tokens=2)
        client.images.generate(prompt="a cat")
    alone, all_of_them = (1, 1), (num_threads, num_threads)
    assert found == {("reader", alone), ("engine", all_of_them), ("decoder", alone)}


def in_a_new_thread(call: Callable[[], T]) -> T:
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]


def test_a_service_made_in_any_thread_keeps_the_number_for_its_engine(engine) -> None:
    """A Ray replica is made in a thread of Ray's."""

    def make() -> Service:
        Runtime.choose("cpu", num_threads=3)
        return Service(engine, ServerSettings(slots=2))

    service = in_a_new_thread(make)
    assert in_a_new_thread(counts) == (3, 3)
    service.stop()


def test_a_pool_of_one_core_leaves_other_threads_as_they_are() -> None:
    torch.set_num_threads(3)
    with one_core_pool(4, "worker") as pool:
        inside = [pool.submit(counts) for _ in range(20)]
        later = in_a_new_thread(counts)
    assert {call.result() for call in inside} == {(1, 1)}
    assert later == (3, 3) and counts() == (3, 3)
