"""A generation eye with a memory: what is drawn with its cache is what is drawn without, in any company."""

import random

import numpy as np
import pytest
import torch

from openjanus.inference.engine import Engine
from openjanus.inference.request import Request
from openjanus.inference.sampling import Sampler, SamplingOptions
from openjanus.inference.speculative import Speculation
from openjanus.model.semantic_eye import SemanticEye
from openjanus.processing.message import Message
from openjanus.sequence import GenerateSpan, Kind, TextSpan, collate, pack
from openjanus.training.janus import JanusTraining, janus_training
from openjanus.training.stage import Stage
from tests import tiny
from tests.inference.test_scheduler import again, guided_request, ids_of, make_request, make_scheduler, oracle
from tests.remembering import remembering_config  # noqa: F401  (a fixture)


@pytest.fixture(scope="module")
def engine(remembering_config) -> Engine:  # noqa: F811
    return Engine(tiny.checkpoint(remembering_config))


def illustrated(engine: Engine, rng: random.Random, draw: bool) -> Request:
    """A request whose prompt already holds a drawing, and asks for another, or asks about it."""
    drawn = np.array([rng.randrange(48) for _ in range(16)])
    said = [Message("user", ["a cat"]), Message("assistant", [drawn]), Message("user", ["and a red dog"])]
    document = engine.processor.prompt(said, draw)
    assert any(isinstance(span, GenerateSpan) for span in document)
    options = SamplingOptions(temperature=0.7, guidance=3.0, seed=rng.randrange(100), n=2)
    if not draw:
        return engine.answer(said, options, 6)
    documents = [document, engine.processor.unconditional(document)]
    return Request(documents, Kind.GENERATE, 16, Sampler(options, range(2)), scales=[3.0])


def mixed_requests(engine: Engine, rng: random.Random) -> list[Request]:
    """Drawings of one and of several pictures, guided by one to four rows, and answers."""
    requests = [make_request(engine, rng, i % 3 > 0) for i in range(6)]
    requests += [guided_request(engine, rng, num_rows) for num_rows in (3, 4)]
    return [*requests, illustrated(engine, rng, True), illustrated(engine, rng, False)]


def test_the_ids_before_matter(engine) -> None:
    """Otherwise these tests would show nothing."""
    one, other = (engine.model.embed(collate([[GenerateSpan(ids)]]))[0] for ids in ([1, 2, 3], [4, 2, 3]))
    assert not torch.allclose(one[2], other[2], atol=1e-2)
    torch.testing.assert_close(one[0], engine.model.embed(collate([[GenerateSpan([1])]]))[0, 0])


def test_pictures_of_packed_documents_have_nothing_to_do_with_each_other(engine) -> None:
    documents = [
        [TextSpan([5]), GenerateSpan(range(16)), TextSpan([6]), GenerateSpan(range(3))],
        [GenerateSpan([7, 8])],
        [GenerateSpan(range(16, 32)), GenerateSpan([])],
    ]
    alone = [engine.model.embed(collate([[span]]))[0] for document in documents for span in document
             if isinstance(span, GenerateSpan) and len(span.image_ids)]  # fmt: skip
    batch = pack(documents, 24)
    x = engine.model.embed(batch)
    found = list(x.flatten(0, 1)[batch.places[Kind.GENERATE]].split(list(batch.drawings)))
    assert len(batch.tokens) == 2 and len(found) == len(alone) == 4
    for picture in alone:
        assert any(len(picture) == len(x) and torch.allclose(picture, x, atol=1e-6) for x in found)


@pytest.mark.parametrize("seed", range(6))
def test_a_random_mix_gives_every_request_what_the_uncached_model_gives(engine, seed) -> None:
    rng = random.Random(seed)
    requests = mixed_requests(engine, rng)
    scheduler = make_scheduler(engine, chunk_tokens=rng.choice([1, 7, 64]))
    waiting = list(requests)
    while waiting or scheduler.step():
        if waiting and rng.random() < 0.3:
            scheduler.submit(waiting.pop())
        elif waiting:
            scheduler.step()
    assert not scheduler.pictures.owner
    with torch.inference_mode():
        for request in requests:
            assert request.error is None and ids_of(request) == oracle(engine, request)


def test_others_leaving_at_any_step_changes_nothing(engine) -> None:
    """A cancelled request frees its places in the eye's cache; the last pictures move into them."""
    moved = 0
    for seed in range(8):
        rng = random.Random(200 + seed)
        requests = mixed_requests(engine, rng)
        alone = []
        for request in requests:
            twin = again(request)
            scheduler = make_scheduler(engine)
            scheduler.submit(twin)
            scheduler.run()
            alone.append(ids_of(twin))
        scheduler = make_scheduler(engine, chunk_tokens=5)
        copy = scheduler.pictures.cache.copy

        def counted(*arguments, copy=copy):
            nonlocal moved
            moved += 1
            copy(*arguments)

        scheduler.pictures.cache.copy = counted
        for request in requests:
            scheduler.submit(request)
        while scheduler.step():
            if rng.random() < 0.08:
                rng.choice(requests).cancel()
        for request, wanted in zip(requests, alone, strict=True):
            got = ids_of(request) if request.ids else [[] for _ in wanted]
            assert all(one == whole[: len(one)] for one, whole in zip(got, wanted, strict=True))
            assert request.finished and (request.cancelled or got == wanted)
    assert moved > 3


def test_all_guidance_rows_of_a_picture_share_one_place(engine, monkeypatch) -> None:
    eye, seen = engine.model.generation, []
    forward = eye.forward
    monkeypatch.setattr(eye, "forward", lambda ids, cache=None: seen.append(tuple(ids.shape)) or forward(ids, cache))
    scheduler = make_scheduler(engine)
    request = scheduler.submit(engine.drawing("a red cat", SamplingOptions(n=3, guidance=4.0)))
    while scheduler.step():
        assert len(scheduler.owner) == 2 * len(scheduler.pictures.owner)
    assert request.num_rows == 6 and seen == [(3, 1)] * 15


@pytest.mark.parametrize("num_rows", [3, 4])
def test_three_and_four_rows_share_it_too(engine, num_rows) -> None:
    request = guided_request(engine, random.Random(num_rows), num_rows)
    scheduler = make_scheduler(engine)
    scheduler.submit(again(request))
    while scheduler.step():
        assert len(scheduler.pictures.owner) in (0, request.n)
        assert len(scheduler.owner) == num_rows * len(scheduler.pictures.owner)


@pytest.mark.parametrize("window", [2, 5, 16, 40])
def test_speculative_drawings_are_those_of_the_plain_loop(engine, window) -> None:
    for seed in range(4):
        options = SamplingOptions(temperature=0.7, guidance=2.0 if seed % 2 else 1.0, seed=seed, n=3)
        wanted = engine.generate_ids(["a red car", "two cats"], options)
        assert torch.equal(engine.generate_ids(["a red car", "two cats"], options, speculative=window), wanted)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4])
def test_speculation_remembers_for_any_number_of_guidance_rows(engine, num_rows) -> None:
    for seed in range(3):
        request = guided_request(engine, random.Random(seed), num_rows)
        wanted = oracle(engine, request)
        for window in (2, 7):
            twin = again(request)
            speculation = Speculation(engine.model, twin, window)
            while speculation.step():
                pass
            assert ids_of(twin) == wanted


def test_a_step_that_fails_is_repeated_without_harm(engine, monkeypatch) -> None:
    requests = [engine.drawing("a cat", SamplingOptions(guidance=2.0, seed=seed, n=2)) for seed in range(2)]
    wanted = [engine.generate_ids("a cat", SamplingOptions(guidance=2.0, seed=seed, n=2)).tolist() for seed in range(2)]
    body, steps = engine.model.language_model, []
    forward = body.forward

    def fails_once(x, *rest):
        if x.shape[1] == 1:
            steps.append(1)
            if len(steps) == 6:
                raise torch.OutOfMemoryError("no memory for this")
        return forward(x, *rest)

    monkeypatch.setattr(body, "forward", fails_once)
    scheduler = make_scheduler(engine)
    for request in requests:
        scheduler.submit(request)
    scheduler.run()
    assert isinstance(requests[1].error, torch.OutOfMemoryError)
    assert ids_of(requests[0]) == wanted[0]


def test_an_ordinary_eye_has_no_second_cache() -> None:
    engine = Engine(tiny.checkpoint())
    scheduler = make_scheduler(engine)
    scheduler.submit(engine.drawing("a cat", SamplingOptions(guidance=2.0)))
    scheduler.step()
    scheduler.step()
    pictures = scheduler.pictures
    assert pictures.cache is None and not pictures.owner
    assert pictures.continued(scheduler.tokens, scheduler.position, scheduler.length) is None


def test_training_moves_the_whole_eye_through_its_memory(engine) -> None:
    """The last id alone is supervised; the embedding of the first gets a gradient."""
    model = engine.model.requires_grad_()
    batch = collate([[TextSpan([5]), GenerateSpan([1, 2, 3], loss=True)]])
    hidden = model(batch)[0, -1]
    eye = model.generation
    table = eye.tokenizer.codebook if isinstance(eye, SemanticEye) else eye.embedding
    (gradient,) = torch.autograd.grad(hidden.sum(), [table.weight])
    model.requires_grad_(False)
    assert all(gradient[i].abs().sum() > 0 for i in (1, 2, 3)) and not gradient[4].any()


def test_the_loss_of_packed_documents_is_that_of_each_alone(remembering_config) -> None:  # noqa: F811
    start = tiny.checkpoint(remembering_config)
    training = janus_training(JanusTraining("", "", row_tokens=96), 0, start)
    stage = Stage("s", 1, 1e-3, {"emoji.drawings": 4, "emoji.questions": 1})
    documents = [
        [TextSpan([5, 6]), GenerateSpan(range(first, first + 16), loss=True), TextSpan([7])] for first in range(4)
    ]
    packed = training.loss(training.model, pack(documents, 64), 0)[0]
    alone = sum(training.loss(training.model, pack([document], 19), 0)[0] for document in documents)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-3)
    (batch,) = training.data(stage, 0)
    assert batch.drawings == (16,) * 4 and training.loss(training.model, batch, 0)[0].isfinite()
