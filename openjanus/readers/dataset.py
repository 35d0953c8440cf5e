"""A user's data as a source of training examples: held-out part, order of each epoch, directions of captions.

The held-out part is chosen by a hash of the pictures' bytes, so that it stays the same when files are moved, renamed
or added. Examples that share a picture are on one side.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from openjanus.data.config import DataConfig
from openjanus.data.id_store import cache_folder
from openjanus.processing.image import read_image
from openjanus.processing.message import Conversation, Message
from openjanus.readers.files import read_rows
from openjanus.readers.pictures import Stored, digest_of, open_picture
from openjanus.readers.records import Fault, Row

Split = Literal["train", "held_out"]
Direction = Literal["as it is", "draw", "describe", "picture"]
MANY = 5  # faults that an error names
DESCRIBED: tuple[Direction, ...] = ("draw", "describe")


@dataclass(frozen=True)
class Example:
    """A row in one direction; `digest` tells its picture (or its words) from others."""

    row: Row
    direction: Direction
    digest: str


class Dataset:
    """A user's data, opened. `rows` are what can be used; `faults` what cannot.

    Raises ValueError if nothing is left, or for faults, unless `c.skip_bad`.
    """

    def __init__(self, c: DataConfig, rows: Sequence[Row], faults: Sequence[Fault], digests: Sequence[Sequence[str]]):
        self.config, self.rows, self.faults, self.digests = c, rows, faults, digests
        if faults and not c.skip_bad:
            named = "; ".join(f"{fault.where}: {fault.what}" for fault in faults[:MANY])
            more = f"; and {len(faults) - MANY} more" if len(faults) > MANY else ""
            raise ValueError(
                f"{c.path}: {len(faults)} of {len(faults) + len(rows)} examples cannot be used: {named}{more}. Repair "
                "them (`openjanus data check` shows all), or set skip_bad=true"
            )
        if not rows:
            raise ValueError(f"{c.path}: holds no example that can be used")

    @cached_property
    def _sides(self) -> dict[Split, list[Example]]:
        """The examples of each side, captions in each direction that is wanted."""
        sides: dict[Split, list[Example]] = {"train": [], "held_out": []}
        use = self.config.use
        directions: Sequence[Direction] = DESCRIBED if use == "both" else ("picture",) if use == "pictures" else (use,)
        for row, group, own in zip(self.rows, _groups(self.digests), self.digests, strict=True):
            side: Split = "held_out" if int(group[:8], 16) < self.config.held_out * 2**32 else "train"
            wanted: Iterable[Direction] = directions if row.kind in ("caption", "picture") else ("as it is",)
            sides[side] += [Example(row, direction, own[0]) for direction in wanted]
        return sides

    def examples(self, split: Split) -> list[Example]:
        """Those of one side, in the order of the files."""
        return self._sides[split]

    def source(self, split: Split, seed: int) -> Callable[[int], Conversation]:
        """Index -> conversation. Each epoch has all examples once, in an order of its own.

        Raises ValueError if the side is empty.
        """
        examples = self.examples(split)
        if not examples:
            raise ValueError(f"{self.config.path}: no example is in the part {split} ({len(self.rows)} in all)")

        def at(index: int) -> Conversation:
            epoch, place = divmod(index, len(examples))
            order = _order_of_epoch(seed, epoch, len(examples))
            return self.conversation(examples[order[place]], np.random.default_rng([seed, index, 6]))

        return at

    def conversation(self, example: Example, rng: np.random.Generator) -> Conversation:
        """An example as messages; the assistant's pictures are not encoded yet. Raises ValueError for a picture that
        cannot be read."""
        row, c = example.row, self.config
        if example.direction == "picture":
            return [Message("assistant", [self._part(row.pictures[0], example, True)])]
        if row.kind != "caption":
            crops = not row.edits  # what is edited keeps its middle, before and after
            return [
                Message(role, [self._part(part, example, crops and role == "assistant") for part in parts])
                for role, parts in row.turns
            ]
        picture, words = row.turns[0][1]
        assert isinstance(words, str) and not isinstance(picture, str), "a caption is a picture and its words"
        if rng.random() < c.first_sentence:
            words = first_sentence(words)
        if example.direction == "describe":
            return [Message("user", [open_picture(picture), c.question]), Message("assistant", [words])]
        return [Message("user", [words]), Message("assistant", [self._part(picture, example, True)])]

    def _part(self, part: str | Stored, example: Example, crops: bool) -> str | Image.Image:
        if isinstance(part, str):
            return part
        image = open_picture(part)
        return random_square(image, example.digest) if crops and self.config.crop == "random" else image


@lru_cache(maxsize=8)
def _order_of_epoch(seed: int, epoch: int, number: int) -> np.ndarray:
    """A permutation of so many examples. It is kept, because a training opens its sources anew at each step."""
    return np.random.default_rng([seed, epoch, 5]).permutation(number)


def open_data(c: DataConfig, progress: Callable[[int, int], None] = lambda done, total: None) -> Dataset:
    """Reads all records, and all pictures once. That a picture of an unchanged file can be read, and its hash, are
    kept in the cache folder.

    Raises ValueError as `Dataset`, and if there is no such file or nothing known in it.
    """
    rows: list[Row] = []
    faults: list[Fault] = []
    for row in read_rows(c.path):
        if c.use == "pictures" and (pictures := _pictures_of(row)):
            rows += [Row(row.where, "picture", [("assistant", [picture])]) for picture in pictures]
        elif isinstance(row, Fault):
            faults.append(row)
        elif c.use != "pictures":  # a text has no picture
            rows.append(row)
    digests, unreadable = _digests(c, rows, progress)
    bad = {id(row) for row, _ in unreadable}
    kept = [(row, own) for row, own in zip(rows, digests, strict=True) if id(row) not in bad]
    faults += [Fault(row.where, what) for row, what in sorted(unreadable, key=lambda pair: pair[0].where)]
    return Dataset(c, [row for row, _ in kept], faults, [own for _, own in kept])


def _pictures_of(row: Row | Fault) -> list[Stored]:
    return row.pictures if isinstance(row, Row) else [row.picture] if row.picture else []


def _digests(
    c: DataConfig, rows: Sequence[Row], progress: Callable[[int, int], None]
) -> tuple[list[list[str]], list[tuple[Row, str]]]:
    """The digests of each row's pictures, or of its words if it has none; and the rows with
    a picture that cannot be read."""
    cache = cache_folder() / "digests" / f"{digest_of(str(Path(c.path).absolute()).encode())}.json"
    try:
        known = json.loads(cache.read_text("utf-8"))
    except (OSError, ValueError):
        known = {}
    now: dict[str, str] = {}
    unreadable: list[tuple[Row, str]] = []

    def digests_of(row: Row) -> list[str]:
        found = []
        for picture in row.pictures:
            try:
                key = f"{picture.name} {picture.stamp}"
                digest = known.get(key)
                if digest is None:
                    content = picture.read()
                    read_image(BytesIO(content), picture.name)  # now, and not in the middle of a training
                    digest = digest_of(content)
                found.append(digest)
                now[key] = digest
            except FileNotFoundError:
                unreadable.append((row, f"{picture.name}: no such file"))
            except (OSError, ValueError) as error:
                unreadable.append((row, str(error) if picture.name in str(error) else f"{picture.name}: {error}"))
        return found or [digest_of(row.words.encode())]

    with ThreadPoolExecutor(8) as pool:
        digests = []
        for own in pool.map(digests_of, rows):
            digests.append(own)
            progress(len(digests), len(rows))
    if now != known:
        cache.parent.mkdir(parents=True, exist_ok=True)
        draft = cache.with_name(f".{cache.name}.{os.getpid()}")
        draft.write_text(json.dumps(now), "utf-8")
        draft.replace(cache)
    return digests, unreadable


def _groups(digests: Sequence[Sequence[str]]) -> list[str]:
    """For each row a digest that all rows have that share pictures with it, directly or through others."""
    parent: dict[str, str] = {}

    def root(digest: str) -> str:
        while parent.setdefault(digest, digest) != digest:
            parent[digest] = parent[parent[digest]]
            digest = parent[digest]
        return digest

    for own in digests:
        roots = sorted({root(digest) for digest in own})
        for other in roots[1:]:
            parent[other] = roots[0]
    return [hashlib.sha256(root(own[0]).encode()).hexdigest() for own in digests]


def first_sentence(words: str) -> str:
    """The words up to the first full stop, question mark or exclamation mark that ends a sentence."""
    for place, sign in enumerate(words[:-1]):
        if sign in ".!?。！？" and (words[place + 1].isspace() or sign in "。！？"):
            return words[: place + 1]
    return words


def random_square(image: Image.Image, digest: str) -> Image.Image:
    """The largest square of a picture at a random place, always the same for one picture."""
    side = min(image.size)
    shift = int(digest[:8], 16) / 2**32
    left, top = (round((length - side) * shift) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def duplicates(dataset: Dataset) -> int:
    """Pictures that occur more than once."""
    counts = Counter(own[0] for row, own in zip(dataset.rows, dataset.digests, strict=True) if row.pictures)
    return sum(count - 1 for count in counts.values())
