"""The sources of the wider world: drawings and questions as people ask, conversations, and edits."""

from functools import lru_cache
from importlib.resources import files

from PIL import Image

from openjanus.data.sources import Source
from openjanus.emoji import grammar, world
from openjanus.emoji.edits import sample_edit
from openjanus.emoji.rewording import loose_caption, polite, reworded
from openjanus.emoji.splits import stream
from openjanus.emoji.talks import about_pictures, small_talk
from openjanus.emoji.wide import wide_scene
from openjanus.emoji.words import coin
from openjanus.processing.message import Conversation, Message
from openjanus.processing.text import TextTokenizer

LOOSE = 0.12  # share of captions in free word order
TALK = 0.1  # share of conversations without pictures


def drawings(split: str, seed: int) -> Source:
    """A caption to draw, in one of many wordings: index -> conversation."""

    def at(index: int) -> Conversation:
        scene, rng = wide_scene(split, seed, index), stream(split, seed, index, 7)
        is_loose = scene.named.relation is None and (len(scene.items) == 1 or scene.named.count is not None)
        if is_loose and coin(rng, LOOSE):
            words = loose_caption(scene, rng)
        else:
            words = polite(grammar.caption(scene, rng), rng)
        picture = Image.fromarray(world.render(scene))
        return [Message("user", [reworded(words, rng)]), Message("assistant", [picture])]

    return at


def talks(split: str, seed: int) -> Source:
    """Questions about one to eight pictures, or small talk: index -> conversation."""

    def at(index: int) -> Conversation:
        if coin(stream(split, seed, index, 11), TALK):
            return small_talk(split, seed, index)
        return about_pictures(split, seed, index)

    return at


def edits(split: str, seed: int) -> Source:
    """A picture and what to change, and the picture after the change: index -> conversation."""

    def at(index: int) -> Conversation:
        edit, rng = sample_edit(split, seed, index), stream(split, seed, index, 12)
        before, after = (Image.fromarray(world.render(scene)) for scene in (edit.before, edit.after))
        words = reworded(edit.words, rng)
        asked = Message("user", [before, words] if coin(rng, 0.7) else [words, before])
        return [asked, Message("assistant", [after])]

    return at


@lru_cache(maxsize=1)
def wide_text_tokenizer() -> TextTokenizer:
    """The wider world's own tokenizer (scripts/make_tokenizer.py)."""
    return TextTokenizer.load(str(files("openjanus.emoji") / "assets" / "tokenizer-wide.json"))
