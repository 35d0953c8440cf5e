"""What all handlers share: the engine, its worker, and threads for work that would block the event loop."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import partial
from typing import TypeVar

import torch

from openjanus.inference.engine import Engine
from openjanus.machine import free_bytes
from openjanus.runtime import one_core_pool
from openjanus.serve.conversation import Fetch
from openjanus.serve.decode_queue import DecodeQueue
from openjanus.serve.drawing import Canvas
from openjanus.serve.errors import ApiError
from openjanus.serve.fetch import fetch_picture
from openjanus.serve.grammar import Grammars
from openjanus.serve.metrics import Metrics
from openjanus.serve.settings import ServerSettings
from openjanus.serve.stored import Store
from openjanus.serve.worker import Worker

T = TypeVar("T")
READERS = 2  # threads that decode users' pictures: each may hold max_pictures * max_picture_pixels * 3 bytes
MAX_SLOTS = 64
MAX_POSITIONS = 4096
CACHE_SHARE = 0.25  # of the memory that is free


def cache_size(engine: Engine, slots: int = 0, positions: int = 0, num_models: int = 1) -> tuple[int, int]:
    """Rows and positions of the KV cache; 0: as many as the model supports and its part of a quarter of the free memory
    holds, if so many models share it.

    A drawing with guidance needs two rows for each picture.
    """
    model = engine.model.language_model
    c, device = model.config, model.norm.weight.device
    num_positions = positions or min(c.max_positions, MAX_POSITIONS)
    if not 1 <= num_positions <= c.max_positions:
        raise ValueError(f"positions is {positions}, expected 1 to {c.max_positions}, the model's maximum")
    if slots < 0 or slots == 1:
        raise ValueError(f"slots is {slots}, expected 2 or more: a guided drawing needs two rows")
    row_bytes = model.make_cache(1, 1).num_bytes * num_positions
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_bytes()
    if slots * row_bytes > free:
        needed_gib, free_gib = slots * row_bytes / 2**30, free / 2**30
        raise ValueError(
            f"slots is {slots:,}: with {num_positions} positions each they take {needed_gib:,.1f} GiB, but "
            f"{free_gib:,.1f} GiB are free, which hold {free // row_bytes:,}"
        )
    affordable = int(free * CACHE_SHARE / num_models / row_bytes) // 2 * 2
    return slots or max(2, min(MAX_SLOTS, affordable)), num_positions


class Service:
    """A model behind the API, and others beside it, by their names: each has a worker of its own.

    beside: models with adapters. They share all limits, pools and metrics with the first.
    """

    def __init__(self, engine: Engine, s: ServerSettings, beside: Mapping[str, Engine] | None = None):
        beside = beside or {}
        self.limits, self.created, self.metrics = s.limits, int(time.time()), Metrics()
        self._take(engine, s, tuple(dict.fromkeys((s.name, *s.aliases))), 1 + len(beside))
        if taken := set(self.names) & beside.keys():
            raise ValueError(f"two models are called {taken.pop()!r}: give the adapter another name")
        self.store = Store(s.limits.max_stored_bytes)
        self.grammars = Grammars(engine.processor.text)
        self.fetch: Fetch | None = None
        if s.remote_pictures:
            self.fetch = partial(fetch_picture, max_bytes=s.limits.max_picture_bytes, seconds=s.limits.fetch_seconds)
        self._readers = one_core_pool(READERS, "reader")
        self._parser = ThreadPoolExecutor(1, "parser")  # one body at a time bounds the memory of parsing
        self.decode_queue = DecodeQueue()  # in its own thread, beside the engine's
        self.models = [self]
        for name, other in beside.items():
            twin = copy(self)
            twin._take(other, s, (name,), 1 + len(beside))
            self.models.append(twin)

    def _take(self, engine: Engine, s: ServerSettings, names: tuple[str, ...], num_models: int) -> None:
        """Puts an engine behind these names, which clients call it by."""
        self.engine, self.name, self.names = engine, names[0], names
        num_image_ids = engine.model.config.generation.num_image_ids
        self.canvas = Canvas(
            engine.sizes_px, num_image_ids, engine.sampling, engine.decode_images, s.strict_sizes, engine.unknown_words
        )
        self.worker = Worker(engine, *cache_size(engine, s.slots, s.positions, num_models), s.limits, self.metrics)

    async def parse(self, call: Callable[[], T]) -> T:
        """Runs `call`, which parses a body, in the parser thread."""
        return await asyncio.get_running_loop().run_in_executor(self._parser, call)

    async def read(self, call: Callable[[], T]) -> T:
        """Runs `call`, which prepares a request, in a reader thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, call)

    def of(self, name: str | None) -> "Service":
        """The model that a request names; the first if it names none. Raises ApiError for an unknown name."""
        if name is None:
            return self
        for model in self.models:
            if name in model.names:
                return model
        known = ", ".join(repr(model.name) for model in self.models)
        has = f"one model, {known}" if len(self.models) == 1 else f"the models {known}"
        raise ApiError(404, f"this server has {has}", "model_not_found", "model")

    @property
    def workers(self) -> list[Worker]:
        """One for each model."""
        return [model.worker for model in self.models]

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop()
        self.decode_queue.stop()
        for pool in (self._parser, self._readers):
            pool.shutdown(wait=False, cancel_futures=True)
