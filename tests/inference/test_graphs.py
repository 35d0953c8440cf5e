"""Recorded steps against plain ones. On the CPU a recording computes again what it was given, over the same buffers."""

import gc
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from openjanus.inference import graphs
from openjanus.inference.engine import Engine, load
from openjanus.inference.graphs import CudaRecording, GraphedLayers
from openjanus.inference.sampling import SamplingOptions
from openjanus.inference.scheduler import Request, Scheduler
from openjanus.processing.processor import Message
from openjanus.testing import tiny_checkpoint


class Again:
    """Stands for a CUDA graph: the buffers of the first run are those of all."""

    made = 0

    def __init__(self, compute: Callable[[], Tensor]):
        self.compute, self.result = compute, compute()
        Again.made += 1

    def replay(self) -> None:
        self.result.copy_(self.compute())


@pytest.fixture
def engine(tmp_path) -> Engine:
    return load(tiny_checkpoint(tmp_path / "model"), "cpu", "float32")


def requests_of(engine: Engine) -> list[Request]:
    rng, requests = random.Random(3), []
    for number in range(6):
        options = SamplingOptions(guidance=rng.choice([1.0, 4.0]), seed=number, n=rng.choice([1, 2]))
        if number % 2:
            requests.append(engine.drawing("a red cat", options))
        else:
            requests.append(engine.answer([Message("user", ["what is it?"])], options, 12))
    return requests


def together(engine: Engine) -> list[Tensor]:
    requests, scheduler = requests_of(engine), Scheduler(engine.model, 12, 300, engine._text_logits)
    for request in requests:
        scheduler.submit(request)
        scheduler.step()
    scheduler.run()
    return [torch.stack(request.ids) for request in requests]


@pytest.mark.parametrize("reach", [8, 128])
def test_recorded_steps_give_the_ids_of_plain_ones(engine, reach, monkeypatch) -> None:
    """Requests of both kinds that join, leave and move: every shape comes and goes."""
    monkeypatch.setattr(graphs, "REACH", reach)
    plain = together(engine)
    Again.made = 0
    engine.model.language_model.decode = GraphedLayers(engine.model.language_model, Again)
    recorded = together(engine)
    assert Again.made > 3
    assert all(torch.equal(a, b) for a, b in zip(plain, recorded, strict=True))


def test_a_shape_is_recorded_once_and_forgotten_with_its_cache(engine) -> None:
    decode = engine.model.language_model.decode = GraphedLayers(engine.model.language_model, Again)
    Again.made = 0
    first = engine.generate("two red apples", seed=1)[0]
    assert 0 < Again.made <= 2  # 64 steps
    assert engine.generate("two red apples", seed=1)[0].tobytes() == first.tobytes()
    gc.collect()
    assert not decode.graphs


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graphs_give_the_hidden_states_of_plain_steps(tmp_path) -> None:
    engine = load(tiny_checkpoint(tmp_path / "model"), "cuda", "float32")
    model = engine.model.language_model
    assert isinstance(model.decode, GraphedLayers) and model.decode.record is CudaRecording
    recorded = together(engine)
    model.decode = None
    assert all(torch.equal(a, b) for a, b in zip(together(engine), recorded, strict=True))
