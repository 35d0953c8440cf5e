"""Text to ids and back: a Hugging Face `tokenizers` file and the special tokens that Janus needs.

Special ids are looked up by their string: the official checkpoints differ in the numbers. Users' text is encoded with
the special tokens switched off, so that nobody can type `<begin_of_image>` into a conversation.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
PAD = "<｜▁pad▁｜>"
BEGIN_OF_IMAGE = "<begin_of_image>"
END_OF_IMAGE = "<end_of_image>"
IMAGE_PLACEHOLDER = "<image_placeholder>"  # marks the place of a picture in text; never encoded, pictures are spans
SPECIAL_TOKENS = (PAD, BOS, EOS, BEGIN_OF_IMAGE, END_OF_IMAGE)


class TextTokenizer:
    """Wraps a `tokenizers.Tokenizer`; `pad_id`, `eos_id`, `begin_of_image_id`, `end_of_image_id` are ints.

    `bos_id` is None for families of language models that begin their documents without such a token (Qwen).
    """

    def __init__(self, tokenizer: Tokenizer):
        ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
        self.bos_id = ids.pop(BOS)
        missing = [token for token, id in ids.items() if id is None]
        if missing:
            raise ValueError(f"the tokenizer lacks {', '.join(missing)}: is it a Janus tokenizer?")
        self.tokenizer = tokenizer
        known = (id for id in ids.values() if id is not None)
        self.pad_id, self.eos_id, self.begin_of_image_id, self.end_of_image_id = known

    @classmethod
    def load(cls, path: Path | str) -> "TextTokenizer":
        try:
            return cls(Tokenizer.from_file(str(path)))
        except ValueError:
            raise
        except Exception as error:  # `tokenizers` raises bare Exception
            raise ValueError(f"{path}: not a tokenizer file ({error})") from None

    @classmethod
    def adopt(cls, tokenizer: Tokenizer, bos: str | None, eos: str) -> "TextTokenizer":
        """The tokenizer of a plain language model, with Janus' tokens.

        The family's own tokens for the beginning and the end of a document keep their ids and take Janus' names; the
        other tokens of Janus are added after all others. `bos` None: the family has no such token.
        """
        names = {} if bos is None else {bos: BOS}
        names |= {eos: EOS}
        swapped = names | {theirs: own for own, theirs in names.items() if tokenizer.token_to_id(theirs) is not None}
        copy = Tokenizer.from_str(json.dumps(_renamed(json.loads(tokenizer.to_str()), swapped)))
        copy.add_special_tokens([*names.values(), PAD, BEGIN_OF_IMAGE, END_OF_IMAGE, IMAGE_PLACEHOLDER])
        return cls(copy)

    def save(self, path: Path | str) -> None:
        self.tokenizer.save(str(path))

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.tokenizer.get_vocab().values()) + 1

    def special_id(self, token: str) -> int | None:
        """The id of a special token, or None where the tokenizer does not know it as one."""
        id = self.tokenizer.token_to_id(token)
        return id if id in self.tokenizer.get_added_tokens_decoder() else None

    def with_special(self, *tokens: str) -> "TextTokenizer":
        """A copy that knows these special tokens too, after all others."""
        copy = Tokenizer.from_str(self.tokenizer.to_str())
        copy.add_special_tokens(list(tokens))
        return TextTokenizer(copy)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; a special token's string in it is text like any other.

        Raises ValueError for a lone surrogate: half of a character, or a byte that was not UTF-8.
        """
        if broken := re.search(r"[\ud800-\udfff]", text):
            code, place = f"U+{ord(broken[0]):04X}", broken.start() + 1
            raise ValueError(f"character {place} of the text is {code}, half a character: is the text UTF-8?")
        self.tokenizer.encode_special_tokens = True
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)


class TextStream:
    """The text of an answer whose ids come one after another: pieces of whole characters, joined the whole text.

    An answer's text begins with a space that is not part of what it says. Only the newest ids are decoded again: those
    of the last piece, because a tokenizer may write an id differently at the beginning, and those behind it.
    """

    def __init__(self, text: TextTokenizer):
        self.text = text
        self.ids: list[int] = []
        self._window, self._given = 0, 0  # where the last piece begins and ends among the ids

    def add(self, ids: Iterable[int]) -> str:
        """The text that these ids add; the half of a character waits for its other bytes."""
        self.ids += ids
        return self._give(has_ended=False)

    def flush(self) -> str:
        """The rest of an answer that has ended: half a character as the tokenizer shows it, and what waited with it."""
        return self._give(has_ended=True)

    def _give(self, has_ended: bool) -> str:
        before = self.text.decode(self.ids[self._window : self._given])
        text = self.text.decode(self.ids[self._window :])
        if len(text) == len(before) or (text.endswith("\ufffd") and not has_ended):
            return ""
        first = self._given == 0
        self._window, self._given = self._given, len(self.ids)
        return text[len(before) :].removeprefix(" ") if first else text[len(before) :]


def _renamed(data: Any, names: Mapping[str, str]) -> Any:
    """A tokenizer's file with some tokens renamed, wherever they stand."""
    if isinstance(data, dict):
        return {names.get(key, key): _renamed(value, names) for key, value in data.items()}
    if isinstance(data, list):
        return [_renamed(item, names) for item in data]
    return names.get(data, data) if isinstance(data, str) else data


def train_text_tokenizer(corpus: Iterator[str], vocab_size: int) -> TextTokenizer:
    """A byte-level BPE tokenizer: any text can be encoded, the corpus's own words cheaply."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return TextTokenizer(tokenizer)
