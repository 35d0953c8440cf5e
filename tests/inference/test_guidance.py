"""Guidance by any number of rows: what is dropped, what the scales mean, and what is drawn in the end."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import Tensor

from openjanus.inference.engine import Engine
from openjanus.inference.prompt import guidance_rows
from openjanus.inference.request import Request
from openjanus.inference.sampling import Sampler, SamplingOptions, guide
from openjanus.inference.speculative import Speculation
from openjanus.processing.image import generation_pixels
from openjanus.processing.message import Message
from openjanus.sequence import Document, GenerateSpan, Kind, TextSpan, collate, num_tokens
from tests import tiny
from tests.inference.test_scheduler import again, guided_request, ids_of, make_request, make_scheduler, oracle

RED, BLUE = (Image.new("RGB", (16, 16), color) for color in ("red", "blue"))
EDIT = Message("user", [RED, "make it blue"])
SETTINGS = SamplingOptions(temperature=0.8, seed=3, n=2)


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Of a model that was trained to edit."""
    return Engine(replace(tiny.checkpoint(), tasks=("talk", "draw", "edit")))


def run(engine: Engine, request: Request) -> list[list[int]]:
    scheduler = make_scheduler(engine)
    scheduler.submit(request)
    scheduler.run()
    assert request.error is None
    return ids_of(request)


def drawn_by(engine: Engine, documents: Sequence[Document], scales: Sequence[float]) -> list[list[int]]:
    return run(engine, Request(documents, Kind.GENERATE, 16, Sampler(SETTINGS, range(2)), scales=scales))


# --- which rows there are


@pytest.mark.parametrize(
    ("guidance", "image_guidance", "dropped", "scales"),
    [
        (5.0, None, ["", "words pictures"], [5.0]),
        (1.0, None, [""], []),
        (5.0, 1.5, ["", "words", "words pictures"], [5.0, 1.5]),
        (1.0, 1.5, ["", "words", "words pictures"], [1.0, 1.5]),
        (5.0, 5.0, ["", "words pictures"], [5.0]),  # the row between counts (5 - 5) times
        (5.0, 1.0, ["", "words"], [5.0]),  # the last row counts (1 - 1) times
        (1.0, 1.0, [""], []),
    ],
)
def test_the_rows_of_an_edit(engine, guidance, image_guidance, dropped, scales) -> None:
    document = engine.processor.prompt([EDIT], draw=True)
    found, found_scales = guidance_rows(
        engine.processor, document, SamplingOptions(guidance=guidance, image_guidance=image_guidance)
    )
    wanted = [engine.processor.drop(document, "words" in parts, "pictures" in parts) for parts in dropped]
    assert found_scales == scales and len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert num_tokens(one) == num_tokens(document)
        assert torch.equal(engine.model.embed(collate([one])), engine.model.embed(collate([other])))


def test_a_prompt_without_pictures_does_not_use_image_guidance(engine) -> None:
    document = engine.processor.prompt([Message("user", ["a cat"])], draw=True)
    for image_guidance in (None, 1.0, 7.0):
        options = SamplingOptions(guidance=3.0, image_guidance=image_guidance)
        rows, scales = guidance_rows(engine.processor, document, options)
        assert rows == [document, engine.processor.unconditional(document)] and scales == [3.0]


# --- what is drawn


def logits_of(engine: Engine, document: Document, ids: Sequence[int]) -> Tensor:
    hidden = engine.model(collate([[*document, GenerateSpan(ids)] if ids else document]))
    return engine.model.heads[Kind.GENERATE](hidden[:, -1])


def seen_by_both_eyes(engine: Engine) -> Document:
    """EDIT as spans: the understanding eye's picture, then its image ids, each between its marks."""
    (text, picture, rest) = engine.processor.prompt([EDIT], draw=True)
    begin, end = engine.processor.text.begin_of_image_id, engine.processor.text.end_of_image_id
    pixels = generation_pixels(RED, 16)[None]
    ids = engine.model.generation.tokenizer.encode(pixels)[0].tolist()
    assert text.ids[-1] == begin and rest.ids[0] == end and len(ids) == 16
    return [text, picture, TextSpan([end, begin]), GenerateSpan(ids), rest]


@pytest.mark.parametrize(("words", "pictures"), [(7.5, 1.5), (2.0, 9.0), (1.0, 2.0)])
def test_an_edit_is_guided_by_words_and_by_pictures(engine, words, pictures) -> None:
    """arXiv 2211.09800, equation 3, one id after another, without cache or batch."""
    full = seen_by_both_eyes(engine)
    without_words, nothing = engine.processor.drop(full, words=True), engine.processor.unconditional(full)
    ids: list[int] = []
    for _ in range(16):
        both, picture, none = (logits_of(engine, row, ids).double() for row in (full, without_words, nothing))
        ids.append(int((none + pictures * (picture - none) + words * (both - picture)).argmax()))
    greedy = SamplingOptions(temperature=0.0, guidance=words, image_guidance=pictures)
    for speculative in (0, 5):
        assert engine.generate_ids(EDIT, greedy, speculative=speculative)[0].tolist() == ids
    assert engine.generate_ids(EDIT, replace(greedy, image_guidance=None))[0].tolist() != ids


def test_one_scale_for_both_is_guidance_by_two_rows(engine) -> None:
    full = seen_by_both_eyes(engine)
    wanted = drawn_by(engine, [full, engine.processor.unconditional(full)], [4.0])
    for image_guidance in (None, 4.0):
        options = replace(SETTINGS, guidance=4.0, image_guidance=image_guidance)
        assert run(engine, engine.drawing(EDIT, options)) == wanted


def test_a_conversation_with_pictures_is_a_prompt(engine) -> None:
    conversation = [
        Message("user", ["draw a cat"]),
        Message("assistant", [torch.arange(16)]),
        {"role": "user", "content": [{"type": "text", "text": "now a dog"}]},
    ]
    request = engine.drawing(conversation, replace(SETTINGS, guidance=3.0, image_guidance=2.0))
    assert len(request.documents) == 3 and run(engine, again(request)) == oracle(engine, request)
    assert torch.equal(
        engine.generate_ids([conversation, "a cat"], SETTINGS)[:2], engine.generate_ids([conversation], SETTINGS)
    )


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_rows_are_drawn_as_the_oracle_draws(engine, num_rows, seed) -> None:
    request = guided_request(engine, random.Random(seed), num_rows)
    wanted = oracle(engine, request)
    assert run(engine, again(request)) == wanted
    for window in (2, 7):
        twin = again(request)
        speculation = Speculation(engine.model, twin, window)
        while speculation.step():
            pass
        assert ids_of(twin) == wanted


@pytest.mark.parametrize("seed", range(4))
def test_a_mixed_batch_gives_every_request_what_the_oracle_gives(engine, seed) -> None:
    rng = random.Random(seed)
    requests = [guided_request(engine, rng, num_rows) for num_rows in (1, 2, 3, 4)]
    requests += [make_request(engine, rng, draw=False) for _ in range(2)]
    rng.shuffle(requests)
    scheduler = make_scheduler(engine, num_rows=22, chunk_tokens=rng.choice([16, 64]))
    waiting, together = list(requests), set()
    while waiting or scheduler.step():
        if waiting and rng.random() < 0.5:
            scheduler.submit(waiting.pop())
        elif waiting:
            scheduler.step()
        together.add(frozenset(len(request.documents) for request in scheduler.running))
    assert any(len(numbers) > 2 for numbers in together)
    for request in requests:
        assert request.error is None and ids_of(request) == oracle(engine, request)


# --- chains


def test_a_chain_of_equal_scales_is_its_two_ends() -> None:
    rows = torch.randn(4, 3, 7)
    torch.testing.assert_close(guide(rows, [2.5] * 3), guide(rows[[0, 3]], [2.5]))
    torch.testing.assert_close(guide(rows, [5.0, 2.5, 2.5]), guide(rows[[0, 1, 3]], [5.0, 2.5]))


def test_a_row_that_repeats_its_neighbour_changes_nothing(engine) -> None:
    full = engine.processor.prompt([EDIT], draw=True)
    middle, nothing = engine.processor.drop(full, words=True), engine.processor.unconditional(full)
    wanted = drawn_by(engine, [full, middle, nothing], [3.0, 2.0])
    assert drawn_by(engine, [full, full, middle, nothing], [9.0, 3.0, 2.0]) == wanted
    assert drawn_by(engine, [full, middle, nothing, nothing], [3.0, 2.0, 9.0]) == wanted


def test_scales_of_one_draw_the_whole_prompt(engine) -> None:
    full = engine.processor.prompt([EDIT], draw=True)
    middle, nothing = engine.processor.drop(full, words=True), engine.processor.unconditional(full)
    assert drawn_by(engine, [full, middle, nothing], [1.0, 1.0]) == drawn_by(engine, [full], [])


# --- what is refused


def test_a_model_that_was_not_trained_to_edit_refuses_pictures() -> None:
    engine = Engine(tiny.checkpoint())
    for prompt in (EDIT, [EDIT], [[EDIT]], [[Message("user", ["a"]), Message("assistant", [torch.arange(16)])]]):
        with pytest.raises(
            ValueError, match="holds a picture, but this model was trained to talk and draw, not to edit"
        ):
            engine.generate(prompt)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"role": "user", "content": "a cat"}, "prompts are of type dict; expected text"),
        ([{"role": "user", "content": "a cat"}], "a prompt is of type dict; expected text .*, a Message, or a conv"),
        (Message("user", [" "]), "empty prompt"),
        ([[Message("user", [""])]], "empty prompt"),
        ([[]], "empty prompt"),
        ([[3]], "a message is of type int"),
        ([Message("user", ["a"]), Message("assistant", ["b"])], "a prompt is a message of role 'assistant'"),
    ],
)
def test_what_is_no_prompt_is_refused(engine, prompts, message) -> None:
    with pytest.raises(ValueError, match=message):
        engine.generate(prompts)


def test_rows_that_do_not_fit_together_are_refused() -> None:
    row, longer = [TextSpan([1, 2, 3])], [TextSpan([1, 2, 3, 4])]
    sampler = Sampler(SamplingOptions(), [0])
    with pytest.raises(ValueError, match=r"rows have \[3, 4\] positions: expected one or several of equal length"):
        Request([row, longer], Kind.GENERATE, 4, sampler, scales=[2.0])
    with pytest.raises(ValueError, match=r"rows have \[\] positions"):
        Request([], Kind.GENERATE, 4, sampler)
    for scales in ([], [2.0, 2.0]):
        with pytest.raises(
            ValueError, match=f"got {len(scales)} scales for 2 guidance rows, expected one for each but"
        ):
            Request([row, row], Kind.GENERATE, 4, sampler, scales=scales)
    with pytest.raises(ValueError, match="only drawings are guided"):
        Request([row, row], Kind.TEXT, 4, sampler, scales=[2.0])
