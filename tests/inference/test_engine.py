"""Both doors against oracles that recompute the whole sequence at every step."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from openjanus.inference.engine import Engine
from openjanus.inference.sampling import SamplingOptions, guide
from openjanus.processing.processor import Message
from openjanus.sequence import Document, GenerateSpan, Kind, TextSpan, collate, num_tokens
from openjanus.weights import checkpoint
from tests import tiny

PROMPTS = ["a red car", "two big purple butterflies on a white background, in noto style"]
PICTURE = Image.new("RGB", (20, 12), (200, 30, 60))
GREEDY = SamplingOptions(temperature=0.0, guidance=5.0)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny.checkpoint())


def slow_drawing(engine: Engine, prompt: str, guidance: float) -> list[int]:
    """Greedy ids of one prompt without a cache: one document at a time, from its beginning, at every step."""
    start = engine.processor.prompt([Message("user", [prompt])], draw=True)
    ids: list[int] = []
    for _ in range(engine.model.config.generation.num_image_ids):
        logits = []
        for document in (start, engine.processor.unconditional(start)):
            batch = collate([[*document, GenerateSpan(ids)] if ids else document])
            logits.append(engine.model.heads[Kind.GENERATE](engine.model(batch)[:, -1]))
        blended = logits[0] if guidance == 1 else guide(logits, [guidance])
        ids.append(int(blended.argmax()))
    return ids


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_greedy_drawings_equal_the_oracle_for_prompts_of_different_lengths(engine, guidance) -> None:
    drawn = engine.generate_ids(PROMPTS, replace(GREEDY, guidance=guidance))
    assert drawn.tolist() == [slow_drawing(engine, prompt, guidance) for prompt in PROMPTS]


def test_picture_k_of_a_prompt_does_not_depend_on_its_company(engine) -> None:
    options = SamplingOptions(temperature=1.0, guidance=2.0, seed=3, n=3)
    company = engine.generate_ids(PROMPTS, options)
    alone = engine.generate_ids(PROMPTS[1], options)
    assert torch.equal(company[3:], alone)
    assert torch.equal(engine.generate_ids(PROMPTS[1], replace(options, n=1))[0], alone[0])
    assert not torch.equal(alone[0], alone[1])
    assert not torch.equal(alone, engine.generate_ids(PROMPTS[1], replace(options, seed=4)))


def test_several_prompts_are_drawn_together_with_a_seed_each(engine) -> None:
    options = SamplingOptions(temperature=1.0, guidance=2.0, n=2)
    together = engine.generate_ids(["a red car"] * 2, options, seeds=[4, 9])
    alone = [engine.generate_ids("a red car", options, seed=seed) for seed in (4, 9)]
    assert torch.equal(together, torch.cat(alone)) and not torch.equal(*alone)
    with pytest.raises(ValueError, match="got 1 seeds for 2 prompts, expected one for each"):
        engine.generate(["a", "b"], seeds=[1])


def test_without_guidance_there_is_no_unconditional_row(engine, monkeypatch) -> None:
    rows = []
    head = engine.model.heads[Kind.GENERATE]
    original = head.forward
    monkeypatch.setattr(head, "forward", lambda hidden: rows.append(len(hidden)) or original(hidden))
    engine.generate_ids(PROMPTS, replace(GREEDY, guidance=1.0))
    alone = len(rows)
    engine.generate_ids(PROMPTS, GREEDY)
    assert set(rows[:alone]) == {1, 2} and set(rows[alone:]) == {2, 4}  # each prompt's prefill, then both together


def test_pictures_have_the_tokenizers_size_and_progress_is_told(engine) -> None:
    told: list[tuple[int, int]] = []
    images = engine.generate(PROMPTS, replace(GREEDY, n=2), lambda done, total: told.append((done, total)))
    assert [image.size for image in images] == [(16, 16)] * 4
    assert told == [(step, 16) for step in range(1, 17)]


def slow_answer(engine: Engine, document: Document, num_steps: int) -> list[int]:
    text, ids = engine.processor.text, []
    barred = [text.pad_id, text.bos_id, text.begin_of_image_id, text.end_of_image_id]
    for _ in range(num_steps):
        batch = collate([[*document, TextSpan(ids)] if ids else document])
        logits = engine.model.heads[Kind.TEXT](engine.model(batch)[0, -1])
        logits[barred] = float("-inf")
        ids.append(int(logits.argmax()))
        if ids[-1] == text.eos_id:
            break
    return ids


@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_greedy_answers_equal_the_oracle_and_pieces_join(engine, pictures) -> None:
    conversation = [Message("user", [*[PICTURE] * pictures, "what is it?"])]
    pieces = list(engine.chat(conversation, max_new_tokens=12))
    ids = slow_answer(engine, engine.processor.prompt(conversation), 12)
    text = engine.processor.text
    assert "".join(pieces) == text.decode(ids).removeprefix(" ")


def script(engine: Engine, monkeypatch, ids: list[int]) -> None:
    """Makes the text head say these ids, one after the other."""
    said = iter(ids)

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor([next(said)]), 1024).float()

    monkeypatch.setattr(engine.model.heads[Kind.TEXT], "forward", logits)


def test_answers_of_a_batch_are_those_of_each_question_alone(engine) -> None:
    asked = [(Image.new("RGB", (16, 16), color), words) for color, words in (("red", "what is it?"), ("blue", "how?"))]
    together = engine.answers([[Message("user", [picture, words])] for picture, words in asked], max_new_tokens=16)
    assert together == [engine.ask(picture, words, max_new_tokens=16) for picture, words in asked]
    assert len(set(together)) == 2 and engine.answers([]) == []


def test_an_answer_ends_at_the_end_of_sentence(engine, monkeypatch) -> None:
    text = engine.processor.text
    script(engine, monkeypatch, [*text.encode(" a cat"), text.eos_id, *text.encode(" never")])
    assert engine.ask(PICTURE, "what is it?") == "a cat"


def test_characters_of_several_ids_come_out_whole(engine, monkeypatch) -> None:
    text = engine.processor.text
    ids = text.encode(" a ☃ né")
    assert len(ids) > 6  # the snowman takes three
    script(engine, monkeypatch, [*ids, text.eos_id])
    pieces = list(engine.chat([Message("user", ["hello"])]))
    assert "".join(pieces) == "a ☃ né"
    assert not any("\ufffd" in piece for piece in pieces)


def test_special_tokens_never_come_out_of_chat(engine, monkeypatch) -> None:
    text = engine.processor.text
    (full_stop,) = text.encode(".")
    wanted = torch.zeros(1, 1024)
    wanted[0, [text.pad_id, text.bos_id, text.begin_of_image_id, text.end_of_image_id]] = 9.0
    wanted[0, full_stop] = 5.0
    monkeypatch.setattr(engine.model.heads[Kind.TEXT], "forward", lambda hidden: wanted.clone())
    assert "".join(engine.chat([Message("user", ["hello"])], max_new_tokens=3)) == "..."


def test_bad_requests_are_told_what_is_wrong(engine) -> None:
    for bad in ("", "  ", []):
        with pytest.raises(ValueError, match="empty prompt"):
            engine.generate(bad)
    with pytest.raises(ValueError, match="empty question"):
        engine.ask(PICTURE, " ")
    with pytest.raises(ValueError, match=r"positions.*192.*shorten"):
        engine.generate("cat " * 300)
    with pytest.raises(ValueError, match="shorten"):
        list(engine.chat([Message("user", ["cat " * 300])]))
    with pytest.raises(ValueError, match="unknown sampling option 'guidence'"):
        engine.options(guidence=3.0)
    with pytest.raises(ValueError, match=r"n is 2.5, expected a whole number"):
        engine.generate("a cat", n=2.5)


def test_the_checkpoints_own_settings_hold_until_told_otherwise() -> None:
    engine = Engine(tiny.checkpoint(sampling={"guidance": 3.0, "temperature": 0.5}))
    assert engine.options() == SamplingOptions(guidance=3.0, temperature=0.5)
    assert engine.options(guidance=7.0, seed=None) == SamplingOptions(guidance=7.0, temperature=0.5)


def test_a_saved_checkpoints_settings_can_be_used(tmp_path) -> None:
    checkpoint.save(tiny.checkpoint(sampling={"top_k": 5, "seed": 3, "n": 2, "top_p": 0.5}), tmp_path / "model")
    engine = Engine(checkpoint.load(tmp_path / "model"))
    assert engine.options() == SamplingOptions(top_k=5, seed=3, n=2, top_p=0.5)
    assert engine.generate_ids("a cat").shape == (2, 16)


def test_a_drawing_may_fill_the_model_to_its_last_position(engine) -> None:
    def prompt(num_positions: int) -> str:
        return (
            "cat " * (num_positions - num_tokens(engine.processor.prompt([Message("user", ["cat"])], draw=True)))
            + "cat"
        )

    assert engine.generate_ids(prompt(192 - 15), GREEDY).shape == (1, 16)  # the last id is not embedded
    with pytest.raises(ValueError, match="the prompt takes 178 positions, the answer up to 16, but the model has 192"):
        engine.generate_ids(prompt(192 - 14), GREEDY)


def test_an_answer_may_fill_the_model_to_its_last_position(engine) -> None:
    conversation = [Message("user", ["cat " * 170])]
    room = 192 - num_tokens(engine.processor.prompt(conversation))
    assert 0 < room < 50
    full = list(engine.chat(conversation, max_new_tokens=10_000))
    assert full == list(engine.chat(conversation, max_new_tokens=room))


def test_chat_never_says_an_id_beyond_the_tokenizers(monkeypatch) -> None:
    """Official text heads have more rows than their tokenizers have ids."""
    engine = Engine(tiny.checkpoint())
    wide = torch.zeros(1, 1100)
    wide[0, 1099] = 9.0
    wide[0, engine.processor.text.eos_id] = 5.0
    monkeypatch.setattr(engine.model.heads[Kind.TEXT], "forward", lambda hidden: wide.clone())
    assert "".join(engine.chat([Message("user", ["hello"])], max_new_tokens=3)) == ""


def data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def test_a_picture_to_ask_about_may_have_any_form(engine, tmp_path) -> None:
    PICTURE.save(tmp_path / "a.png")
    array = np.asarray(PICTURE)
    path = tmp_path / "a.png"
    wanted = engine.ask(PICTURE, "what is it?", max_new_tokens=6)
    for form in (str(path), path, PICTURE.convert("RGBA"), array, torch.from_numpy(array.copy()), data_url(PICTURE)):
        assert engine.ask(form, " what is it? ", max_new_tokens=6) == wanted
        assert engine.ask([form], "what is it?", max_new_tokens=6) == wanted
    assert engine.ask([path, array], "?", max_new_tokens=6) == engine.ask([PICTURE, PICTURE], "?", max_new_tokens=6)


def test_messages_in_openais_form_are_answered_as_ours(engine) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_url(PICTURE)}}
    theirs = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "what is it?"}, picture]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": "why?"},
    ]
    ours = [
        Message("system", "be brief"),
        Message("user", ["what is it?", PICTURE]),
        Message("assistant", "a cat"),
        Message("user", "why?"),
    ]
    assert list(engine.chat(theirs, max_new_tokens=8)) == list(engine.chat(ours, max_new_tokens=8))


def test_what_cannot_be_asked_is_told_at_once(engine) -> None:
    for call, words in (
        (lambda: engine.ask("none.png", "what is it?"), "none.png: no such file"),
        (lambda: engine.ask(7, "what is it?"), "got int; expected a picture"),
        (lambda: engine.ask([], "what is it?"), "no picture"),
        (lambda: engine.ask(PICTURE, None), "a question is of type NoneType"),
        (lambda: engine.chat("hello"), "a conversation is of type str"),
        (lambda: engine.chat([]), "empty conversation"),
        (lambda: engine.chat([Message("user", "cat " * 300)]), "shorten"),
        (lambda: engine.generate(7), "prompts are of type int"),
        (lambda: engine.generate(b"a cat"), "prompts are of type bytes"),
        (lambda: engine.generate({"a cat": 1}), "prompts are of type dict"),
        (lambda: engine.generate(["a cat", 7]), "a prompt is of type int"),
        (lambda: engine.draw(["a cat", " "]), "empty prompt"),
        (lambda: engine.draw("a cat", n=65), "n is 65"),
        (lambda: engine.draw("a cat", n=2, first=63), r"pictures 63 to 64.*0 to 63"),
        (lambda: engine.draw("a cat", first=-1), r"pictures -1 to -1"),
        (
            lambda: engine.chat([Message("user", "a"), Message("assistant", np.arange(60)), Message("user", "b")]),
            "image id 48",
        ),
        (
            lambda: engine.chat([Message("user", "a"), Message("assistant", -np.arange(9)), Message("user", "b")]),
            "image id -1",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_pictures_are_given_as_soon_as_their_prompt_is_finished(engine, monkeypatch) -> None:
    monkeypatch.setattr("openjanus.inference.running.MAX_ROWS", 4)
    prompts, options = [*PROMPTS, "a dog"], SamplingOptions(n=2, seed=3, guidance=2.0)
    whole = engine.generate(prompts, options)
    steps: list[int] = []
    drawn, seen = {}, []
    for number, image in engine.draw(prompts, options, lambda done, total: steps.append(done)):
        drawn[number] = image
        seen.append(len(steps))
    assert [drawn[i].tobytes() for i in range(6)] == [image.tobytes() for image in whole]
    assert seen[0] == seen[1] < seen[2] == seen[3] < seen[4] == seen[5]  # four rows: one prompt at a time
    assert seen[0] <= 17


@pytest.mark.parametrize("speculative", [0, 8])
def test_a_picture_drawn_alone_is_that_of_the_whole_call(engine, speculative) -> None:
    options = SamplingOptions(n=5, seed=3, guidance=2.0)
    whole = engine.generate(PROMPTS, options)
    for first, n in ((0, 1), (3, 1), (2, 3)):
        part = engine.generate(PROMPTS, replace(options, n=n), speculative=speculative, first=first)
        wanted = [whole[prompt * 5 + first + k] for prompt in range(2) for k in range(n)]
        assert [image.tobytes() for image in part] == [image.tobytes() for image in wanted]


def test_pictures_are_decoded_one_by_one(engine, monkeypatch) -> None:
    decode, sizes = engine.model.generation.tokenizer.decode, []
    monkeypatch.setattr(engine.model.generation.tokenizer, "decode", lambda ids: sizes.append(len(ids)) or decode(ids))
    engine.generate(PROMPTS, SamplingOptions(n=4))
    assert sizes == [1] * 8


def test_an_answer_that_ends_inside_a_character_keeps_its_end(engine, monkeypatch) -> None:
    text = engine.processor.text
    ids = text.encode(" a né☃")
    script(engine, monkeypatch, ids)
    answer = "".join(engine.chat([Message("user", "hello")], max_new_tokens=len(ids) - 1))
    assert answer == text.decode(ids[:-1]).removeprefix(" ") == "a né\ufffd"
