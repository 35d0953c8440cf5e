"""Conversations to documents: the template's very words, where loss falls, and what guidance blanks."""

import numpy as np
import pytest
from PIL import Image

from openjanus.processing.processor import Message
from openjanus.processing.text import BEGIN_OF_IMAGE, BOS, END_OF_IMAGE, EOS, PAD
from openjanus.sequence import GenerateSpan, TextSpan, UnderstandSpan, num_tokens
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
