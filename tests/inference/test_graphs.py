"""Recorded steps against plain ones. On the CPU a recording computes again what it was given, over the same buffers."""

import gc
import random
import threading
from collections.abc import Callable

import pytest
import torch
from PIL import Image
from torch import Tensor

from openjanus.inference import graphs
from openjanus.inference.body import DecodingModel
from openjanus.inference.engine import Engine, load
from openjanus.inference.graphs import GraphedLayers, Record
from openjanus.inference.sampling import SamplingOptions
from openjanus.inference.scheduler import Request, Scheduler
from openjanus.model.attention import KVCache, rotary_table
from openjanus.processing.processor import Message
from openjanus.testing import tiny_checkpoint


class Again:
    """Stands for a CUDA graph: the buffers of the first run are those of all."""

    made = 0

    @staticmethod
    def record(compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        result = compute()
        Again.made += 1
        return lambda: result.copy_(compute()), result


def recorder(device: torch.device) -> Record:
    return Again.record


@pytest.fixture
def engine(tmp_path) -> Engine:
    Again.made = 0
    engine = load(tiny_checkpoint(tmp_path / "model"), "cpu", "float32")
    engine.tasks = ("talk", "draw", "edit")
    return engine


def graphed(engine: Engine) -> GraphedLayers:
    model = engine.model.language_model
    layers = GraphedLayers(model, recorder)
    engine.model.language_model = DecodingModel(model, layers)
    return layers


def requests_of(engine: Engine) -> list[Request]:
    rng, requests = random.Random(3), []
    for number in range(6):
        options = SamplingOptions(guidance=rng.choice([1.0, 4.0]), seed=number, n=rng.choice([1, 2]))
        if number % 2:
            requests.append(engine.drawing("a red cat", options))
        else:
            requests.append(engine.answer([Message("user", ["what is it?"])], options, 12))
    return [*requests, edit(engine, 3, 4.0), edit(engine, 4, 1.0)]


def edit(engine: Engine, seed: int, guidance: float) -> Request:
    """A drawing guided by three rows."""
    said = [Message("user", [Image.new("RGB", (64, 64), "red"), "make it blue"])]
    request = engine.drawing(said, SamplingOptions(guidance=guidance, image_guidance=2.0, seed=seed))
    assert len(request.documents) == 3
    return request


def together(engine: Engine, chunk_tokens: int = 256) -> list[Tensor]:
    requests = requests_of(engine)
    scheduler = Scheduler(engine.model, 12, 300, engine._text_logits, chunk_tokens)
    for request in requests:
        scheduler.submit(request)
        scheduler.step()
    scheduler.run()
    return [torch.stack(request.ids) for request in requests]


@pytest.mark.parametrize("reach", [8, 128])
@pytest.mark.parametrize("chunk_tokens", [3, 256])
def test_recorded_steps_give_the_ids_of_plain_ones(engine, reach, chunk_tokens, monkeypatch) -> None:
    """Requests of both kinds that join, leave and move beside prompts on their way in: every shape comes and goes."""
    monkeypatch.setattr(graphs, "REACH", reach)
    plain = together(engine, chunk_tokens)
    graphed(engine)
    recorded = together(engine, chunk_tokens)
    assert Again.made >= 3
    assert all(torch.equal(a, b) for a, b in zip(plain, recorded, strict=True))


def test_a_shape_is_recorded_once_and_forgotten_with_its_cache(engine) -> None:
    decode = graphed(engine)
    first = engine.generate("two red apples", seed=1)[0]
    assert 0 < Again.made <= 2  # 64 steps
    assert engine.generate("two red apples", seed=1)[0].tobytes() == first.tobytes()
    gc.collect()
    assert not decode.graphs


def continue_rows(engine: Engine, layers: GraphedLayers, cache: KVCache, lengths: list[int]) -> Tensor:
    """One step of the first rows of a cache, each behind so many positions."""
    model = engine.model.language_model
    position = torch.tensor(lengths)[:, None]
    x = torch.randn(len(lengths), 1, model.config.width, generator=torch.Generator().manual_seed(1))
    cosine, sine = rotary_table(position, model.config.head_width, model.config.rope_theta)
    return layers(x, cosine, sine, cache.rows(0, len(lengths), position, max(lengths) + 1)).clone()


def test_few_graphs_serve_every_number_of_rows(engine) -> None:
    layers, cache = graphed(engine), engine.model.language_model.make_cache(24, 300)
    for num_rows in range(1, 25):
        continue_rows(engine, layers, cache, [5] * num_rows)
    assert sorted(layers.graphs[cache].by_shape) == [(1, 128), (2, 128), (4, 128), (8, 128), (16, 128), (24, 128)]
    continue_rows(engine, layers, cache, [290, 5])
    assert Again.made == 7


def test_rows_that_stand_for_none_leave_the_cache_of_others_as_it_was(engine) -> None:
    """Five rows run in a graph for eight, first and again after it has run eight: the other three may be a prompt on
    its way in. It is filled up to the last position before that is read."""
    layers, cache = graphed(engine), engine.model.language_model.make_cache(9, 300)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for part in (cache.keys, cache.values):
            part.copy_(torch.randn(part.shape, generator=generator))
        before = cache.keys.clone(), cache.values.clone()
        continue_rows(engine, layers, cache, [7, 3, 290, 4, 9])
        for part, old in zip((cache.keys, cache.values), before, strict=True):
            assert torch.equal(part[:, 5:, :, :-1], old[:, 5:, :, :-1])
            assert torch.equal(part[:, 8], old[:, 8])
        continue_rows(engine, layers, cache, [7, 3, 290, 4, 9, 20, 30, 40])
    assert Again.made == 1


def test_each_cache_has_a_recorder_for_its_own_device(engine) -> None:
    devices: list[torch.device] = []
    model = engine.model.language_model
    layers = GraphedLayers(model, lambda device: devices.append(device) or Again.record)
    for _ in range(2):
        cache = model.make_cache(2, 300)
        for length in (5, 200):
            continue_rows(engine, layers, cache, [length])
    assert devices == [torch.device("cpu")] * 2 and Again.made == 4


def test_the_end_of_a_prompt_is_not_recorded(engine) -> None:
    """A last chunk of one position looks like a step, but its rows stand anywhere in the cache."""
    layers, cache = graphed(engine), engine.model.language_model.make_cache(4, 300)
    position = torch.tensor([[5]])
    x = torch.zeros(1, 1, engine.model.language_model.config.width)
    cosine, sine = rotary_table(position, engine.model.language_model.config.head_width, 10000.0)
    layers(x, cosine, sine, cache.rows(2, 3, position, 6))
    assert not layers.graphs


def test_pictures_are_decoded_while_nothing_is_recorded(engine) -> None:
    """A thread that decodes waits for a recording to end, and goes on then."""
    ids = engine.generate_ids("two red apples", seed=1)
    done = threading.Event()
    with graphs.recording_lock:
        thread = threading.Thread(target=lambda: (engine.decode_images(ids), done.set()))
        thread.start()
        assert not done.wait(0.3)
    thread.join()
    assert done.is_set()
