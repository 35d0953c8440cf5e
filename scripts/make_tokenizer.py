"""Makes the text tokenizers of openjanus/emoji/assets: byte-level BPE over a world's own words and the chat template.

python scripts/make_tokenizer.py            tokenizer.json, of the emoji world
python scripts/make_tokenizer.py wide       tokenizer-wide.json, of the wider one
python scripts/make_tokenizer.py languages  tokenizer-languages.json, of the reduced one in several languages
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from openjanus.emoji import grammar, languages, mini, texts, wide_sources, world
from openjanus.emoji.splits import stream
from openjanus.processing.message import Conversation
from openjanus.processing.text import train_text_tokenizer

VOCAB_SIZE, WIDE_VOCAB_SIZE, LANGUAGES_VOCAB_SIZE = 1024, 1536, 1536
NUM_SCENES = 20_000
ASSETS = Path(__file__).parents[1] / "openjanus/emoji/assets"


def corpus() -> Iterator[str]:
    """Training text only; the template's words stand as they do in a conversation."""
    for index in range(NUM_SCENES):
        scene = world.sample_scene("train", 0, index)
        rng = stream("train", 0, index, 1)
        question = grammar.question(scene, rng)
        yield f"User: {grammar.caption(scene, rng)}\n\nAssistant:"
        yield f"User: \n{question.text}\n\nAssistant: {question.answer}"
        yield texts.text_document(0, index)
        yield grammar.description(scene)


def wide_corpus() -> Iterator[str]:
    """As `corpus`, of the wider world's conversations."""
    drawings, talks, edits = (f("train", 0) for f in (wide_sources.drawings, wide_sources.talks, wide_sources.edits))
    for index in range(NUM_SCENES):
        yield from map(_written, (drawings(index), talks(index), edits(index)))
        yield texts.text_document(0, index)


def languages_corpus() -> Iterator[str]:
    """Every language says and asks the same, so that each gets as many tokens."""
    for index in range(NUM_SCENES // 4):
        scene = mini.mini_scene("train", 0, index)
        for language in languages.LANGUAGES:
            yield f"User: {languages.say(language, scene)}\n\nAssistant:"
            for kind in mini.KINDS:
                question, answer = languages.ask(language, scene, stream("train", 0, index, 17), kind)
                yield f"User: \n{question}\n\nAssistant: {answer}"


def _written(conversation: Conversation) -> str:
    """The words of a conversation between the template's."""
    said = {"system": "{}\n\n", "user": "User: {}\n\n", "assistant": "Assistant: {}"}
    return "".join(
        said[message.role].format("\n".join(part for part in message.content if isinstance(part, str)))
        for message in conversation
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["wide"]:
        train_text_tokenizer(wide_corpus(), WIDE_VOCAB_SIZE).save(ASSETS / "tokenizer-wide.json")
    elif sys.argv[1:] == ["languages"]:
        train_text_tokenizer(languages_corpus(), LANGUAGES_VOCAB_SIZE).save(ASSETS / "tokenizer-languages.json")
    else:
        train_text_tokenizer(corpus(), VOCAB_SIZE).save(ASSETS / "tokenizer.json")
