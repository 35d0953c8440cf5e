"""The running batch: whatever runs beside a request, it gets what it gets alone, and what the oracle gives."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import Tensor

from openjanus.inference.engine import Engine
from openjanus.inference.sampling import Sampler, SamplingOptions, guide
from openjanus.inference.scheduler import Request, Scheduler
from openjanus.processing.processor import Message
from openjanus.sequence import GenerateSpan, Kind, Span, TextSpan, collate, num_tokens
from tests import tiny

NUM_ROWS, NUM_POSITIONS = 8, 192
WORDS = "a two three red green blue cat dog apple heart and on under beside grass".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny.checkpoint())


def make_scheduler(engine: Engine, **settings: int) -> Scheduler:
    sizes = {"num_rows": NUM_ROWS, "num_positions": NUM_POSITIONS, **settings}
    return Scheduler(engine.model, text_logits=engine._text_logits, **sizes)


def make_request(engine: Engine, rng: random.Random, draw: bool) -> Request:
    """A drawing or an answer with settings of its own."""
    words = " ".join(rng.choices(WORDS, k=rng.randint(1, 12)))
    options = SamplingOptions(
        temperature=rng.choice([0.0, 0.7, 1.0]),
        top_k=rng.choice([0, 5]),
        top_p=rng.choice([1.0, 0.8]),
        guidance=rng.choice([1.0, 2.0, 5.0]),
        seed=rng.randrange(100),
        n=rng.choice([1, 1, 2, 3]),
    )
    if draw:
        return engine.drawing(words, options)
    pictures = [Image.new("RGB", (16, 16), rng.choice(["red", "blue"])) for _ in range(rng.randint(0, 2))]
    return engine.answer([Message("user", [*pictures, words])], options, rng.randint(1, 20))


def guided_request(engine: Engine, rng: random.Random, num_rows: int) -> Request:
    """A drawing, its prompt with a picture and a drawing or without; each row is the one before it with less."""
    said = [Message("user", [" ".join(rng.choices(WORDS, k=rng.randint(1, 6)))])]
    if rng.random() < 0.7:
        drawn = torch.tensor(rng.choices(range(48), k=16))
        said += [Message("assistant", [drawn]), Message("user", [Image.new("RGB", (16, 16), "red"), "a dog"])]
    documents = [engine.processor.prompt(said, draw=True)]
    pad = engine.processor.text.pad_id
    for _ in range(num_rows - 1):
        row: list[Span] = []
        for span in documents[-1]:
            if rng.random() < 0.4 and span is not documents[-1][-1]:
                row.append(TextSpan([pad] * num_tokens([span])))
            elif isinstance(span, TextSpan):
                row.append(TextSpan([pad if rng.random() < 0.4 else id for id in span.ids]))
            else:
                row.append(span)
        documents.append(row)
    options = SamplingOptions(
        temperature=rng.choice([0.0, 0.7, 1.0]),
        top_k=rng.choice([0, 5]),
        seed=rng.randrange(100),
        n=rng.choice([1, 2]),
    )
    scales = [rng.choice([1.0, 1.5, 3.0, 5.0]) for _ in range(num_rows - 1)]
    return Request(documents, Kind.GENERATE, 16, Sampler(options, range(options.n)), scales=scales)


def again(request: Request) -> Request:
    """The same request, not begun."""
    options = request.sampler.options
    sampler = Sampler(options, range(request.n))
    return Request(request.documents, request.kind, request.num_new, sampler, request.stop_id, request.scales)


def ids_of(request: Request) -> list[list[int]]:
    return torch.stack(request.ids, dim=1).tolist()


def slow_guide(rows: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """Each row counts as many times as its scale is larger than that of the row before it; the last scale is 1."""
    weights = [scale - before for scale, before in zip([*scales, 1.0], [0.0, *scales], strict=True)]
    return sum((weight * row.double() for weight, row in zip(weights, rows, strict=True)), torch.zeros(()))


def oracle(engine: Engine, request: Request) -> list[list[int]]:
    """Without cache or batch: every sequence from its beginning, at every step."""
    sampler = Sampler(request.sampler.options, range(request.n))
    heads = {Kind.TEXT: engine._text_logits, Kind.GENERATE: engine.model.heads[Kind.GENERATE]}
    sequences: list[list[int]] = [[] for _ in range(request.n)]
    for _ in range(request.num_new):
        logits = []
        for ids in sequences:
            more: list[Span] = [TextSpan(ids) if request.kind == Kind.TEXT else GenerateSpan(ids)] if ids else []
            each = [
                heads[request.kind](engine.model(collate([[*document, *more]]))[:, -1])
                for document in request.documents
            ]
            logits.append(slow_guide(each, request.scales))
        for ids, id in zip(sequences, sampler.choose(torch.cat(logits)).tolist(), strict=True):
            ids.append(id)
        if sequences[0][-1] == request.stop_id:
            break
    return sequences


@pytest.mark.parametrize("seed", range(6))
def test_a_random_mix_gives_every_request_what_the_oracle_gives(engine, seed) -> None:
    rng = random.Random(seed)
    requests = [make_request(engine, rng, i % 2 == 0) for i in range(8)]
    scheduler = make_scheduler(engine, chunk_tokens=rng.choice([1, 7, 64]))
    waiting = list(requests)
    with torch.inference_mode():
        while waiting or scheduler.step():
            if waiting and rng.random() < 0.3:
                scheduler.submit(waiting.pop())
            elif waiting:
                scheduler.step()
        for request in requests:
            assert request.finished
            assert ids_of(request) == oracle(engine, request)


def test_others_leaving_at_any_step_changes_nothing(engine) -> None:
    """Cancelling moves rows: those of a drawing's guidance, an answer's row, rows under a prefill."""
    for seed in range(12):
        rng = random.Random(100 + seed)
        requests = [make_request(engine, rng, i % 2 == 0) for i in range(6)]
        requests[2:2] = [guided_request(engine, rng, num_rows) for num_rows in (3, 4)]
        alone = []
        for request in requests:
            twin = again(request)
            scheduler = make_scheduler(engine)
            scheduler.submit(twin)
            scheduler.run()
            alone.append(ids_of(twin))
        scheduler = make_scheduler(engine, chunk_tokens=5)
        for request in requests:
            scheduler.submit(request)
        while scheduler.step():
            if rng.random() < 0.08:
                rng.choice(requests).cancel()
        for request, wanted in zip(requests, alone, strict=True):
            assert request.finished
            got = ids_of(request) if request.ids else [[] for _ in wanted]
            assert all(one == whole[: len(one)] for one, whole in zip(got, wanted, strict=True))
            assert request.cancelled or got == wanted


def test_a_cancelled_request_is_gone_after_one_step(engine) -> None:
    scheduler = make_scheduler(engine)
    running, stays, queued = (
        scheduler.submit(engine.drawing("a cat", SamplingOptions(n=n, guidance=2.0))) for n in (2, 2, 1)
    )
    for _ in range(3):
        scheduler.step()
    assert scheduler.running == [running, stays] and list(scheduler.waiting) == [queued]
    running.cancel()
    scheduler.step()
    assert running.finished and running not in scheduler.running and len(running.ids) == 3
    assert queued in scheduler.running  # its rows were free at once
    queued.cancel()
    stays.cancel()
    assert not scheduler.step() and not scheduler.owner


def test_what_cannot_fit_is_refused_at_once_and_what_must_wait_waits(engine) -> None:
    scheduler = make_scheduler(engine)
    with pytest.raises(ValueError, match=r"needs 10 rows at once \(n 5, 2 rows each\), but there are 8"):
        scheduler.submit(engine.drawing("a cat", SamplingOptions(n=5)))
    with pytest.raises(ValueError, match="but there are 20: shorten it"):
        make_scheduler(engine, num_positions=20).submit(engine.drawing("a cat", SamplingOptions()))
    assert not scheduler.waiting
    first, second = (scheduler.submit(engine.drawing("a cat", SamplingOptions(n=3))) for _ in range(2))
    scheduler.step()
    assert first.ids and not second.ids
    scheduler.run()
    assert ids_of(first) == ids_of(second)


def test_nobody_overtakes(engine) -> None:
    scheduler = make_scheduler(engine)
    scheduler.submit(engine.drawing("a cat", SamplingOptions(n=3)))
    large = scheduler.submit(engine.drawing("a cat", SamplingOptions(n=2)))
    small = scheduler.submit(engine.answer([Message("user", ["hello"])], SamplingOptions(temperature=0.0), 3))
    for _ in range(4):
        scheduler.step()
    assert not large.ids and not small.ids  # two rows are free, but the first in the queue needs four


def test_prompts_are_prefilled_once_for_all_their_pictures(engine, monkeypatch) -> None:
    seen = []
    original = engine.model.language_model.forward

    def forward(x, *args, **kwargs):
        seen.append(tuple(x.shape[:2]))
        return original(x, *args, **kwargs)

    monkeypatch.setattr(engine.model.language_model, "forward", forward)
    scheduler = make_scheduler(engine)
    request = scheduler.submit(engine.drawing("a red cat", SamplingOptions(n=4)))
    scheduler.run()
    T = len(request.documents[0][0].ids)
    assert seen == [(2, T)] + [(8, 1)] * 15


def test_a_prompt_is_cut_into_the_same_chunks_in_any_company(engine, monkeypatch) -> None:
    chunks: list[tuple[int, int]] = []
    original = engine.model.language_model.forward

    def forward(x, position, document, cache):
        if x.shape[1] > 1:
            chunks.append((int(position[0, 0]), x.shape[1]))
        return original(x, position, document, cache)

    monkeypatch.setattr(engine.model.language_model, "forward", forward)
    requests = [
        engine.answer([Message("user", ["cat " * n])], SamplingOptions(temperature=0.0), 3) for n in (9, 40, 17)
    ]
    alone = []
    for request in requests:
        scheduler = make_scheduler(engine, chunk_tokens=16)
        scheduler.submit(again(request))
        scheduler.run()
        alone += chunks
        chunks.clear()
    scheduler = make_scheduler(engine, chunk_tokens=16)
    for request in requests:
        scheduler.submit(request)
    scheduler.run()
    assert chunks == alone and len(chunks) > 5


def test_heads_read_only_their_own_rows(engine) -> None:
    rows: dict[str, set[int]] = {"image": set(), "text": set()}
    image, text = engine.model.heads[Kind.GENERATE], engine._text_logits
    scheduler = make_scheduler(engine)
    scheduler.heads[Kind.GENERATE] = lambda h: rows["image"].add(len(h)) or image(h)
    scheduler.heads[Kind.TEXT] = lambda h: rows["text"].add(len(h)) or text(h)
    scheduler.submit(engine.drawing("a cat", SamplingOptions(n=2)))
    scheduler.submit(replace(engine.answer([Message("user", ["hello"])], SamplingOptions(), 5), stop_id=None))
    scheduler.run()
    assert rows == {"image": {2, 4}, "text": {1}}  # the prefill's pair, then two pairs; one answer


def test_bfloat16_stays_near_float32(tmp_path) -> None:
    """Logits of a whole mixed run, teacher-forced by its own ids, within bfloat16's precision of the float32 model."""
    from openjanus.weights import checkpoint

    checkpoint.save(tiny.checkpoint(), tmp_path / "model")
    exact, rough = (
        Engine(checkpoint.load(tmp_path / "model", dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)
    )
    request = rough.drawing("two red apples", SamplingOptions(temperature=1.0, guidance=1.0, seed=1))
    scheduler = Scheduler(rough.model, 2, NUM_POSITIONS, rough._text_logits)
    logits: list[torch.Tensor] = []
    head = rough.model.heads[Kind.GENERATE]
    scheduler.heads[Kind.GENERATE] = lambda hidden: logits.append(head(hidden).float()) or head(hidden)
    scheduler.submit(request)
    scheduler.run()
    ids = ids_of(request)[0]
    with torch.inference_mode():
        hidden = exact.model(collate([[*request.documents[0], GenerateSpan(ids)]]))
        wanted = exact.model.heads[Kind.GENERATE](hidden[0, -len(ids) - 1 : -1])
    error = (torch.cat(logits) - wanted).abs().max() / wanted.std()
    assert error < 0.15


def test_every_id_is_chosen_from_guided_logits_in_float32(monkeypatch) -> None:
    """The first one, which comes from the prefill, too: with weights in bfloat16."""
    rough = Engine(tiny.checkpoint())
    rough.model.to(torch.bfloat16)
    request = rough.drawing("two red apples", SamplingOptions(guidance=5.0, seed=1))
    scheduler = Scheduler(rough.model, 2, NUM_POSITIONS)
    pairs, chosen_from = [], []
    head, choose = rough.model.heads[Kind.GENERATE], request.sampler.choose
    scheduler.heads[Kind.GENERATE] = lambda hidden: pairs.append(head(hidden)) or pairs[-1]
    monkeypatch.setattr(request.sampler, "choose", lambda logits: chosen_from.append(logits) or choose(logits))
    scheduler.submit(request)
    scheduler.run()
    assert len(pairs) == len(chosen_from) == 16 and pairs[0].dtype == torch.bfloat16
    for (conditional, unconditional), guided in zip(pairs, chosen_from, strict=True):
        assert torch.equal(guided[0], guide([conditional.float(), unconditional.float()], [5.0]))


def fails_when(call, fault):
    """`call`, but raising out of memory when `fault(*arguments)` says so."""

    def wrapped(*args, **kwargs):
        if fault(*args):
            raise torch.OutOfMemoryError("no memory for this")
        return call(*args, **kwargs)

    return wrapped


def faulty_run(engine, requests, ill: int) -> None:
    """Runs all at once; that one leaves with its error, the others get what they get alone."""
    scheduler = make_scheduler(engine, num_rows=16)
    for request in requests:
        scheduler.submit(request)
    scheduler.run()
    assert isinstance(requests[ill].error, torch.OutOfMemoryError) and requests[ill].finished
    assert not scheduler.owner and not scheduler.waiting and scheduler.prefill is None
    for request in requests[:ill] + requests[ill + 1 :]:
        twin, alone = again(request), make_scheduler(engine)
        alone.submit(twin)
        alone.run()
        assert request.error is None and ids_of(request) == ids_of(twin)


def test_a_request_that_fails_on_its_way_in_fails_alone(engine, monkeypatch) -> None:
    model, rng = engine.model, random.Random(1)
    requests = [make_request(engine, rng, i % 2 == 0) for i in range(5)]
    ill = requests[2].documents
    with monkeypatch.context() as patch:
        patch.setattr("openjanus.inference.scheduler.collate", fails_when(collate, lambda given: given is ill))
        faulty_run(engine, requests, 2)
    requests = [again(request) for request in requests]
    chunks = []
    with monkeypatch.context() as patch:  # the second request's prefill
        fault = lambda x, *_: x.shape[1] > 1 and (chunks.append(1) or len(chunks) == 2)  # noqa: E731
        patch.setattr(model.language_model, "forward", fails_when(model.language_model.forward, fault))
        faulty_run(engine, requests, 1)


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_request_whose_ids_cannot_be_chosen_fails_alone(engine, monkeypatch, at) -> None:
    requests = [make_request(engine, random.Random(2), i % 2 == 0) for i in range(5)]
    ill = requests[2].sampler
    calls = []
    fault = lambda _: calls.append(1) or len(calls) > at  # noqa: E731
    monkeypatch.setattr(ill, "choose", fails_when(ill.choose, fault))
    faulty_run(engine, requests, 2)


def test_a_step_that_fails_costs_the_newest_request_and_changes_nothing_for_others(engine, monkeypatch) -> None:
    requests = [make_request(engine, random.Random(3), i % 2 == 0) for i in range(4)]
    steps = []
    fault = lambda x, *_: x.shape[1] == 1 and (steps.append(1) or len(steps) == 6)  # noqa: E731
    body = engine.model.language_model
    monkeypatch.setattr(body, "forward", fails_when(body.forward, fault))
    faulty_run(engine, requests, 3)


def test_a_fault_reaches_the_caller_of_the_engine(engine, monkeypatch) -> None:
    monkeypatch.setattr(engine.model, "embed", fails_when(engine.model.embed, lambda _: True))
    with pytest.raises(torch.OutOfMemoryError):
        engine.generate_ids("a cat")
