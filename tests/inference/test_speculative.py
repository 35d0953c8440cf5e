"""Speculative drawing gives the ids of the plain loop. They follow the model's own distribution, too, by a test that
wrong rules fail."""

import itertools
import math
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from openjanus.inference import speculative
from openjanus.inference.engine import Engine
from openjanus.inference.running import speculate
from openjanus.inference.sampling import Sampler, SamplingOptions, guide
from openjanus.inference.scheduler import Request
from openjanus.inference.speculative import Speculation
from openjanus.processing.processor import Message
from openjanus.sequence import GenerateSpan, Kind, collate
from tests import tiny

NUM_IDS, NUM_NEW = 4, 4  # few enough to know the probability of every sequence
OPTIONS = SamplingOptions(temperature=0.8, guidance=2.0, n=64)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny.checkpoint())


@pytest.fixture(scope="module")
def small() -> Engine:
    """Of four image ids, which matter much to each other."""
    return Engine(tiny.checkpoint(tiny.with_tokenizer(tiny.CONFIG, num_ids=NUM_IDS)))


@pytest.mark.parametrize("seed", range(12))
def test_drawings_are_those_of_the_plain_loop(engine, seed) -> None:
    rng = random.Random(seed)
    options = SamplingOptions(
        temperature=rng.choice([0.0, 0.5, 1.0]),
        top_k=rng.choice([0, 5]),
        top_p=rng.choice([1.0, 0.8]),
        guidance=rng.choice([1.0, 5.0]),
        seed=seed,
        n=rng.choice([1, 2, 3]),
    )
    prompts = ["a red car", "two cats"]
    wanted = engine.generate_ids(prompts, options)
    for window in (2, rng.randint(3, 15), 16, 40):
        assert torch.equal(engine.generate_ids(prompts, options, speculative=window), wanted)


def test_a_picture_does_not_depend_on_its_company(engine) -> None:
    options = SamplingOptions(guidance=2.0, seed=3, n=5)
    request = engine.drawing("a red car", options)
    together = Speculation(engine.model, request, 6)
    speeds = set()
    while together.step():
        speeds.add(tuple(len(ids) for ids in together.ids))
    assert any(len(set(lengths)) > 1 for lengths in speeds)  # they do stand at different positions
    assert any(0 < lengths.count(16) < 5 for lengths in speeds)  # and some are whole before the others
    for k in range(5):
        alone = Request(request.documents, request.kind, request.num_new, Sampler(options, [k]), scales=request.scales)
        lonely = Speculation(engine.model, alone, 6)
        while lonely.step():
            pass
        assert lonely.ids[0] == together.ids[k]
    assert len({tuple(ids) for ids in together.ids}) == 5


def exact(engine: Engine) -> dict[tuple[int, ...], float]:
    """The probability of every sequence, each from its beginning, without cache, batch or draft."""
    documents = engine.drawing("a red car", OPTIONS).documents
    chances: dict[tuple[int, ...], float] = {}
    for ids in itertools.product(range(NUM_IDS), repeat=NUM_NEW):
        batch = collate([[*document, GenerateSpan(ids)] for document in documents])
        logits = engine.model.heads[Kind.GENERATE](engine.model(batch)[:, -NUM_NEW - 1 : -1])
        p = Sampler(OPTIONS, [0]).probabilities(guide(logits, [OPTIONS.guidance]))
        chances[ids] = math.prod(float(p[i, id]) for i, id in enumerate(ids))
    assert abs(sum(chances.values()) - 1) < 1e-5
    return chances


def draw(engine: Engine, window: int, rounds: int = 30) -> list[tuple[int, ...]]:
    """`rounds` times 64 drawings of `NUM_NEW` ids, by a window (0: the plain loop)."""
    drawn: list[tuple[int, ...]] = []
    for seed in range(rounds):
        request = engine.drawing("a red car", replace(OPTIONS, seed=seed))
        request.num_new = NUM_NEW
        for _ in speculate(engine.model, [request], window) if window else engine._run([request]):
            pass
        drawn += [tuple(ids) for ids in torch.stack(request.ids, dim=1).tolist()]
    return drawn


def surprise(drawn: list[tuple[int, ...]], chances: dict[tuple[int, ...], float]) -> float:
    """Pearson's chi-square in standard deviations from its mean; rare sequences are counted together."""
    counts, n = Counter(drawn), len(drawn)
    if any(chances[ids] == 0 for ids in counts):
        return math.inf
    cells = {ids: ids if n * chance >= 5 else None for ids, chance in chances.items()}
    expected: Counter = Counter()
    found: Counter = Counter()
    for ids, cell in cells.items():
        expected[cell] += n * chances[ids]
        found[cell] += counts[ids]
    square = sum((found[cell] - wanted) ** 2 / wanted for cell, wanted in expected.items() if wanted > 0)
    freedom = len(expected) - 1
    assert freedom > 10
    return (square - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("window", [0, 2, 3, 5])
def test_sequences_come_as_often_as_the_model_says(small, window) -> None:
    assert abs(surprise(draw(small, window), exact(small))) < 4


def keeps_every_draft(draft: Tensor, chosen: Tensor) -> Tensor:
    return torch.full_like(chosen[:, 0], chosen.shape[1])


def keeps_drafts_behind_wrong_ones(draft: Tensor, chosen: Tensor) -> Tensor:
    return 1 + (draft == chosen[:, :-1]).sum(dim=1)


@pytest.mark.parametrize("wrong", [keeps_every_draft, keeps_drafts_behind_wrong_ones])
def test_wrong_rules_are_found_out(small, monkeypatch, wrong) -> None:
    monkeypatch.setattr(speculative, "count_right", wrong)
    assert surprise(draw(small, 3), exact(small)) > 8


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_that_are_right_are_kept(temperature) -> None:
    """Where ids do not matter to each other, the second pass already knows every distribution."""
    engine = Engine(tiny.checkpoint())
    for p in engine.model.generation.adaptor.parameters():
        p.zero_()
    for seed in range(5):
        options = SamplingOptions(temperature=temperature, seed=seed)
        speculation = Speculation(engine.model, engine.drawing("a red car", options), 16)
        while speculation.step():
            pass
        assert speculation.num_passes <= 3  # prompt, window, window


def test_what_cannot_be_speculative_is_refused(engine) -> None:
    for window in (-1, 1, 65):
        with pytest.raises(ValueError, match=f"speculative is {window}, expected 0"):
            engine.generate("a cat", speculative=window)
    answer = engine.answer([Message("user", ["hello"])], SamplingOptions(temperature=0.0), 3)
    assert answer.kind == Kind.TEXT
    with pytest.raises(ValueError, match="only drawings can be speculative"):
        Speculation(engine.model, answer, 4)
    with pytest.raises(ValueError, match="shorten"):
        engine.generate("cat " * 300, speculative=4)


def test_progress_counts_ids(engine) -> None:
    told: list[tuple[int, int]] = []
    images = engine.generate(["a cat", "a dog"], SamplingOptions(n=2), lambda *step: told.append(step), speculative=8)
    assert [image.size for image in images] == [(16, 16)] * 4
    assert told == sorted(told) and told[-1] == (16, 16)
