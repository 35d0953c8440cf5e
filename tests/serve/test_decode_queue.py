"""The order in which pictures are decoded."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from openjanus.serve.decode_queue import CLIENT, DecodeQueue
from tests.serve.conftest import run_coroutine, run_server, until
from tests.serve.test_contract import drawn_alone, picture_of


def order_of(*submitted: tuple[str, bool]) -> list[int]:
    """In which order these jobs (client, whether whole) run if they come while the decode queue is busy."""
    decoded: list[int] = []

    async def main() -> None:
        decode_queue, gate = DecodeQueue(), threading.Event()
        first = decode_queue.submit(gate.wait, is_whole=False)
        jobs = []
        for number, (client, is_whole) in enumerate(submitted):
            CLIENT.set(client)
            jobs.append(decode_queue.submit(lambda number=number: decoded.append(number), is_whole))
        gate.set()
        await asyncio.gather(first.result, *(job.result for job in jobs))
        decode_queue.stop()

    run_coroutine(main())
    return decoded


def test_whole_pictures_come_before_unfinished_ones_of_any_client() -> None:
    assert order_of(*[("a", False)] * 16, ("b", True), ("a", True)) == [16, 17, *range(16)]


def test_clients_take_turns() -> None:
    assert order_of(("a", True), ("a", True), ("a", True), ("b", True), ("b", True)) == [0, 3, 1, 4, 2]
    assert order_of(("a", False), ("a", False), ("b", False)) == [0, 2, 1]


def test_a_job_that_is_withdrawn_or_fails_holds_nobody_up() -> None:
    async def main() -> None:
        decode_queue, gate = DecodeQueue(), threading.Event()
        first = decode_queue.submit(gate.wait, is_whole=True)
        second, third, last = (decode_queue.submit(call, True) for call in (lambda: 1, lambda: 1 / 0, lambda: 2))
        assert second.withdraw() and not first.withdraw()
        gate.set()
        with pytest.raises(ZeroDivisionError):
            await third.result
        assert await last.result == 2 and second.result.cancelled()
        decode_queue.stop()

    run_coroutine(main())


def test_a_drawing_that_is_done_does_not_wait_for_unfinished_pictures_of_its_own(engine) -> None:
    with run_server(engine) as running, ThreadPoolExecutor(1) as pool:
        decode_queue, gate = running.service.decode_queue, threading.Event()
        running.loop.call_soon_threadsafe(lambda: decode_queue.submit(gate.wait, is_whole=True))
        until(lambda: decode_queue._is_busy)
        settings = {"stream": True, "partial_images": 4, "extra_body": {"seed": 4}}
        drawing = pool.submit(lambda: list(running.client().images.generate(prompt="a cat", **settings)))
        until(lambda: decode_queue._whole)
        assert set(decode_queue._whole) == {"127.0.0.1"} and not any(
            not job.result.cancelled() for jobs in decode_queue._unfinished.values() for job in jobs
        )
        gate.set()
        (event,) = drawing.result()
    assert event.type == "image_generation.completed"
    assert np.array_equal(np.asarray(picture_of(event.b64_json)), drawn_alone(engine, "a cat", seed=4)[0])
