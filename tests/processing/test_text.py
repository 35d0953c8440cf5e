"""Text to ids and back: nothing is lost, and nobody's words become a special token."""

import pytest
from tokenizers import Tokenizer, models

from openjanus.processing.text import SPECIAL_TOKENS, TextStream, TextTokenizer, train_text_tokenizer
from tests import tiny

TEXTS = [
    "two red apples",
    "  spaces  and\ttabs\n\n",
    "naïve café",
    "红苹果",
    "🍎👩‍🚀",
    "\x00\x7f",
    "a\u0301",
    "",
    "ÿ" * 50,
]


@pytest.mark.parametrize("words", TEXTS)
def test_any_text_comes_back(words) -> None:
    text = tiny.text_tokenizer()
    ids = text.encode(words)
    assert text.decode(ids) == words
    assert all(len(SPECIAL_TOKENS) <= i < text.vocab_size for i in ids)


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
@pytest.mark.parametrize("around", ["{}", "draw {} please", "{}{}", "<{}>", " {}"])
def test_a_special_tokens_string_is_text_like_any_other(token, around) -> None:
    text, words = tiny.text_tokenizer(), around.replace("{}", token)
    ids = text.encode(words)
    assert not set(ids) & set(range(len(SPECIAL_TOKENS)))
    assert text.decode(ids) == words


def test_special_ids_are_those_of_their_strings() -> None:
    text = tiny.text_tokenizer()
    ids = [text.pad_id, text.bos_id, text.eos_id, text.begin_of_image_id, text.end_of_image_id]
    assert [text.tokenizer.id_to_token(i) for i in ids] == list(SPECIAL_TOKENS)
    assert text.decode([text.bos_id, *text.encode("a cat"), text.eos_id]) == "a cat"


def test_saved_and_loaded_it_encodes_the_same(tmp_path) -> None:
    text = tiny.text_tokenizer()
    text.save(tmp_path / "tokenizer.json")
    again = TextTokenizer.load(tmp_path / "tokenizer.json")
    for words in [*TEXTS, "<begin_of_image>"]:
        assert again.encode(words) == text.encode(words)
    assert again.vocab_size == text.vocab_size == tiny.LANGUAGE_MODEL.vocab_size


def test_a_trained_tokenizer_spends_few_ids_on_its_corpus_and_spells_the_rest() -> None:
    text = train_text_tokenizer(iter(["two red apples"] * 20), 300)
    assert text.vocab_size <= 300
    assert len(text.encode("two red apples")) == 3
    assert text.decode(text.encode("blue ☃")) == "blue ☃"


def test_files_that_are_no_janus_tokenizer_are_refused(tmp_path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    for path in (tmp_path / "bad.json", tmp_path / "none.json"):
        with pytest.raises(ValueError, match=r"\.json: not a tokenizer file"):
            TextTokenizer.load(path)
    Tokenizer(models.BPE()).save(str(tmp_path / "plain.json"))
    with pytest.raises(ValueError, match=r"the tokenizer lacks .*<begin_of_image>.*is it a Janus tokenizer"):
        TextTokenizer.load(tmp_path / "plain.json")


@pytest.mark.parametrize("words", TEXTS)
@pytest.mark.parametrize("step", [1, 3])
def test_a_stream_of_ids_gives_whole_characters_that_join_to_the_text(words, step) -> None:
    text = tiny.text_tokenizer()
    ids = [*text.encode(" " + words), text.eos_id]
    stream = TextStream(text)
    pieces = [stream.add(ids[i : i + step]) for i in range(0, len(ids), step)]
    assert "".join(pieces) == text.decode(ids)[1:] == words
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_stream_decodes_only_its_newest_ids(monkeypatch) -> None:
    text = tiny.text_tokenizer()
    stream, longest = TextStream(text), []
    decode = text.decode
    monkeypatch.setattr(text, "decode", lambda ids: longest.append(len(ids)) or decode(ids))
    for id in text.encode("two red apples on a white background " * 9):
        stream.add([id])
    assert max(longest) <= 8


def whole_and_half(text: TextTokenizer) -> list[int]:
    """A word, and two of the three bytes of a snowman."""
    ids = text.encode(" né☃")
    return ids[:-1]


@pytest.mark.parametrize("step", [1, 2, 99])
def test_a_stream_that_ends_inside_a_character_gives_the_rest_at_its_end(step) -> None:
    text = tiny.text_tokenizer()
    ids = whole_and_half(text)
    stream = TextStream(text)
    pieces = [stream.add(ids[i : i + step]) for i in range(0, len(ids), step)]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + stream.flush() == text.decode(ids)[1:] == "né\ufffd"
    assert stream.flush() == ""


@pytest.mark.parametrize("words", TEXTS)
def test_a_stream_that_is_whole_has_nothing_to_flush(words) -> None:
    text = tiny.text_tokenizer()
    stream = TextStream(text)
    piece = stream.add(text.encode(" " + words))
    assert piece + stream.flush() == words


def test_the_space_before_an_answer_is_dropped_once_even_at_the_end() -> None:
    text = tiny.text_tokenizer()
    stream = TextStream(text)
    assert [stream.add([id]) for id in text.encode(" ☃")[:-1]] == [" "[1:], "", ""]
    assert stream.flush() == "\ufffd"
