"""Conversations to documents: the template's very words, where loss falls, and what guidance blanks."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from openjanus.processing.processor import Message
from openjanus.processing.text import BEGIN_OF_IMAGE, BOS, END_OF_IMAGE, EOS, IMAGE_PLACEHOLDER, PAD
from openjanus.recipes import nano as recipes
from openjanus.sequence import GenerateSpan, TextSpan, UnderstandSpan, num_tokens
from openjanus.weights.checkpoint import read_config
from openjanus.weights.hub import BUNDLED
from tests import tiny

PICTURE = Image.new("RGB", (16, 16), "red")
IDS = np.arange(16)


@pytest.fixture
def processor():
    return tiny.processor()


def shown(processor, document) -> str:
    """A document as a string, special tokens and pictures included."""
    tokenizer = processor.text.tokenizer
    parts = []
    for span in document:
        if isinstance(span, TextSpan):
            parts.append(tokenizer.decode(list(span.ids), skip_special_tokens=False))
        else:
            parts.append("[look]" if isinstance(span, UnderstandSpan) else "[draw]")
    return "".join(parts)


def test_understanding_follows_the_official_template(processor) -> None:
    conversation = [
        Message("user", [PICTURE, "what is it?"]),
        Message("assistant", ["a cat"]),
        Message("user", ["why?"]),
    ]
    assert shown(processor, processor.prompt(conversation)) == (
        f"{BOS}User: {BEGIN_OF_IMAGE}[look]{END_OF_IMAGE}\nwhat is it?\n\nAssistant: a cat{EOS}User: why?\n\nAssistant:"
    )


def test_drawing_follows_the_official_template(processor) -> None:
    prompt = processor.prompt([Message("user", ["two red apples"])], draw=True)
    assert shown(processor, prompt) == f"{BOS}User: two red apples\n\nAssistant:{BEGIN_OF_IMAGE}"


def test_loss_falls_on_answers_and_image_ids_only(processor) -> None:
    conversation = [
        Message("user", [PICTURE, "what?"]),
        Message("assistant", ["a cat"]),
        Message("user", ["draw it"]),
        Message("assistant", [IDS]),
    ]
    document = processor.document(conversation, train=True)
    supervised = [span for span in document if not isinstance(span, UnderstandSpan) and span.loss]
    assert shown(processor, supervised) == f" a cat{EOS}[draw]"
    assert not any(span.loss for span in processor.document(conversation) if not isinstance(span, UnderstandSpan))


def test_text_documents_are_supervised_whole(processor) -> None:
    document = processor.document([Message("text", ["cats purr."])], train=True)
    assert shown(processor, document) == f"{BOS}cats purr.{EOS}"
    assert [span.loss for span in document] == [False, True]


def test_unconditional_keeps_lengths_and_only_the_two_marks(processor) -> None:
    document = processor.prompt([Message("user", ["two red apples"])], draw=True)
    blank = processor.unconditional(document)
    assert num_tokens(blank) == num_tokens(document)
    assert shown(processor, blank) == BOS + PAD * (num_tokens(document) - 2) + BEGIN_OF_IMAGE


def test_unconditional_keeps_image_ids(processor) -> None:
    document = processor.document([Message("user", ["x"]), Message("assistant", [IDS])], train=True)
    (kept,) = [span for span in processor.unconditional(document) if isinstance(span, GenerateSpan)]
    assert kept.image_ids == IDS.tolist() and kept.loss


def test_unconditional_keeps_answers(processor) -> None:
    conversation = [Message("user", ["x"]), Message("assistant", ["a cat"]), Message("user", ["draw it"])]
    blank = processor.unconditional(processor.document(conversation, train=True))
    assert shown(processor, [span for span in blank if span.loss]) == f" a cat{EOS}"


EDIT = [
    Message("user", ["a cat"]),
    Message("assistant", [IDS]),
    Message("user", [PICTURE, "and", PICTURE, "now a dog"]),
]


@pytest.mark.parametrize("template", ["deepseek_old", "deepseek"])
@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("pictures", [False, True])
def test_words_and_pictures_are_dropped_apart(template, words, pictures) -> None:
    """Position by position, by what stands there: BOS, a word, a picture, or a mark before or behind a picture."""
    processor = tiny.processor(replace(tiny.PROCESSOR, template=template))
    text = processor.text
    document = processor.prompt(EDIT, draw=True)
    dropped = processor.drop(document, words, pictures)
    assert len(dropped) == len(document) and num_tokens(dropped) == num_tokens(document)
    marks = (text.begin_of_image_id, text.end_of_image_id)
    last = document[-1].ids[-1]
    assert last == text.begin_of_image_id and dropped[-1].ids[-1] == last
    for span, left in zip(document, dropped, strict=True):
        if isinstance(span, TextSpan):
            for id, seen in list(zip(span.ids, left.ids, strict=True))[: -1 if span is document[-1] else None]:
                goes = pictures if id in marks else words and id != text.bos_id
                assert seen == (text.pad_id if goes else id)
        elif pictures:
            assert left == TextSpan([text.pad_id] * num_tokens([span]))
        else:
            assert left is span
    if not (words or pictures):
        assert dropped == document
    if words and pictures:
        rest = PAD * (num_tokens(document) - 2)
        assert shown(processor, dropped) == shown(processor, processor.unconditional(document))
        assert shown(processor, dropped) == f"{BOS}{rest}{BEGIN_OF_IMAGE}"


def test_words_are_dropped_around_a_picture(processor) -> None:
    document = processor.prompt([Message("user", ["x", PICTURE])], draw=True)
    before, after = (len(span.ids) for span in document if isinstance(span, TextSpan))
    blank = f"{BOS}{PAD * (before - 2)}{BEGIN_OF_IMAGE}[look]{END_OF_IMAGE}{PAD * (after - 2)}{BEGIN_OF_IMAGE}"
    assert shown(processor, processor.drop(document, words=True)) == blank


def test_a_training_example_loses_the_picture_but_not_the_drawing(processor) -> None:
    document = processor.document([Message("user", [PICTURE, "x"]), Message("assistant", [IDS])], train=True)
    blank = processor.unconditional(document)
    assert num_tokens(blank) == num_tokens(document) and not any(isinstance(span, UnderstandSpan) for span in blank)
    assert blank[-2] is document[-2] and blank[-2].loss and blank[-3].ids[-1] == processor.text.begin_of_image_id


def test_nobody_can_type_a_special_token(processor) -> None:
    text = processor.text
    for token in (BEGIN_OF_IMAGE, BOS, EOS, PAD):
        ids = text.encode(f"a {token} b")
        assert not set(ids) & {text.pad_id, text.bos_id, text.eos_id, text.begin_of_image_id, text.end_of_image_id}
        assert text.decode(ids) == f"a {token} b"


def test_what_cannot_be_a_document_is_refused(processor) -> None:
    with pytest.raises(ValueError, match="empty conversation"):
        processor.document([])
    with pytest.raises(ValueError, match="tokenize it first"):
        processor.document([Message("user", ["x"]), Message("assistant", [PICTURE])])


OTHER = Image.new("RGB", (16, 16), "blue")
ORDERS = {
    "picture first": [PICTURE, "what is it?"],
    "question first": ["what is it?", PICTURE],
    "spaces": [" what is it? \n", PICTURE],
    "space behind the picture": [PICTURE, " what is it?"],
    "blank parts": ["", "what is it?", " \n", PICTURE, ""],
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_checkpoint_may_want_a_turns_pictures_first(order) -> None:
    processor = tiny.processor(replace(tiny.PROCESSOR, pictures_first=True))
    prompt = processor.prompt([Message("user", ORDERS[order])])
    wanted = f"{BOS}User: {BEGIN_OF_IMAGE}[look]{END_OF_IMAGE}\nwhat is it?\n\nAssistant:"
    assert shown(processor, prompt) == wanted


def test_pictures_first_keeps_their_order_and_their_turn() -> None:
    processor = tiny.processor(replace(tiny.PROCESSOR, pictures_first=True))
    conversation = [
        Message("user", ["this", PICTURE, "and\nthat", OTHER, "?"]),
        Message("assistant", "differ"),
        Message("user", ["why?", PICTURE]),
    ]
    look = f"{BEGIN_OF_IMAGE}[look]{END_OF_IMAGE}\n"
    document = processor.prompt(conversation)
    assert shown(processor, document) == (
        f"{BOS}User: {look}{look}this and\nthat ?\n\nAssistant: differ{EOS}User: {look}why?\n\nAssistant:"
    )
    colors = [span.pixels[0].mean().item() for span in document if isinstance(span, UnderstandSpan)]
    assert colors == [1.0, -1.0, 1.0]


@pytest.mark.parametrize("words", [f"{IMAGE_PLACEHOLDER} and {IMAGE_PLACEHOLDER}?", "no mark", IMAGE_PLACEHOLDER * 3])
def test_a_mark_is_text_unless_there_are_as_many_as_pictures(processor, words) -> None:
    look = f"{BEGIN_OF_IMAGE}[look]{END_OF_IMAGE}"
    prompt = processor.prompt([Message("user", [PICTURE, words]), Message("assistant", "a"), Message("user", words)])
    assert shown(processor, prompt) == (f"{BOS}User: {look}\n{words}\n\nAssistant: a{EOS}User: {words}\n\nAssistant:")


@pytest.mark.parametrize("pictures_first", [False, True])
def test_marks_say_where_the_pictures_stand(pictures_first) -> None:
    processor = tiny.processor(replace(tiny.PROCESSOR, pictures_first=pictures_first))
    words = f"{IMAGE_PLACEHOLDER} is Figure 1.\nIs it {IMAGE_PLACEHOLDER}?"
    document = processor.prompt([Message("user", [words, PICTURE, OTHER])])
    look = f"{BEGIN_OF_IMAGE}[look]{END_OF_IMAGE}"
    assert shown(processor, document) == f"{BOS}User: {look} is Figure 1.\nIs it {look}?\n\nAssistant:"
    colors = [span.pixels[0].mean().item() for span in document if isinstance(span, UnderstandSpan)]
    assert colors == [1.0, -1.0]


def test_words_alone_are_written_the_same_for_every_checkpoint() -> None:
    conversation = [Message("user", ["a \n", "b"]), Message("assistant", "c"), Message("user", "d")]
    documents = [
        tiny.processor(replace(tiny.PROCESSOR, pictures_first=first)).prompt(conversation) for first in (False, True)
    ]
    assert documents[0] == documents[1]


def test_the_bundled_model_wants_pictures_first_wherever_it_is_trained_and_used() -> None:
    assert read_config(BUNDLED / "nano")[0].processor.pictures_first
    assert recipes.janus().task.processor.pictures_first
