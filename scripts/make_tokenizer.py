"""Makes openjanus/emoji/assets/tokenizer.json: byte-level BPE over the emoji world's own words and the chat template.

python scripts/make_tokenizer.py
"""

from collections.abc import Iterator
from pathlib import Path

from openjanus.emoji import grammar, texts, world
from openjanus.emoji.splits import stream
from openjanus.processing.text import train_text_tokenizer

VOCAB_SIZE = 1024
NUM_SCENES = 20_000
TARGET = Path(__file__).parents[1] / "openjanus/emoji/assets/tokenizer.json"


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


if __name__ == "__main__":
    train_text_tokenizer(corpus(), VOCAB_SIZE).save(TARGET)
