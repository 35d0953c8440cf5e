"""The report of `openjanus data check`: what is in a user's data, what is wrong with it, what a model sees of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from openjanus.data.config import DataConfig
from openjanus.processing.image import centre_square
from openjanus.processing.message import Conversation, Message, show_both_eyes
from openjanus.processing.processor import Processor
from openjanus.readers.dataset import Dataset, Example, duplicates, random_square
from openjanus.readers.pictures import Stored, open_picture
from openjanus.readers.records import Fault, Row
from openjanus.sequence import Document, GenerateSpan, SignalSpan, TextSpan, UnderstandSpan, num_tokens

NUM_SHOWN = 3  # documents
NUM_FAULTS = 20
TILE_PX, GAP_PX, COLUMNS = 192, 12, 4  # of the sheet of drawing targets


@dataclass(frozen=True)
class DataReport:
    """`text` is for people; `faults` are all that is wrong."""

    text: str
    faults: Sequence[Fault]


def check_data(dataset: Dataset, processor: Processor, num_image_ids: int, row_tokens: int) -> DataReport:
    """What is in the data, for a model with this processor. num_image_ids: positions of a picture that is drawn.

    The assistant's pictures are not encoded: only their number of positions counts here.
    """
    examples = _all_examples(dataset)
    faults = list(dataset.faults)
    lengths = []
    shown: dict[str, Document] = {}
    for number, example in enumerate(examples):
        conversation = dataset.conversation(example, np.random.default_rng(number))
        document = processor.document(_with_blank_ids(conversation, num_image_ids), train=True)
        lengths.append(num_tokens(document))
        if lengths[-1] > row_tokens:
            faults.append(Fault(example.row.where, f"{lengths[-1]} positions, longer than a row of {row_tokens}"))
        kind = f"{example.row.kind}, {example.direction}"
        if kind not in shown or len(shown) < NUM_SHOWN:
            shown.setdefault(kind if kind not in shown else f"{kind} ({example.row.where})", document)
    lines = [*_counts(dataset, examples), *_lengths(lengths, row_tokens), *_unused_keys(dataset)]
    lines += ["", "documents (what the model learns to say is between [[ and ]]):"]
    for kind, document in list(shown.items())[: max(NUM_SHOWN, len({e.row.kind for e in examples}))]:
        lines += ["", f"  {kind}", f"    {render(document, processor)}"]
    lines += ["", *_of_faults(faults)]
    return DataReport("\n".join(lines), faults)


def _with_blank_ids(conversation: Conversation, num_image_ids: int) -> Conversation:
    """The conversation as a training writes it, with zeros for image ids."""
    ids = np.zeros(num_image_ids, np.int64)
    draws = any(m.role == "assistant" and not isinstance(part, str) for m in conversation for part in m.content)
    ready = [
        Message(m.role, [part if isinstance(part, str) else ids for part in m.content]) if m.role == "assistant" else m
        for m in conversation
    ]
    return show_both_eyes(ready, lambda image: ids) if draws else ready


def render(document: Document, processor: Processor) -> str:
    """A document in one line. Pictures are named with their positions; what is supervised is between [[ and ]]."""
    parts = []
    for span in document:
        if isinstance(span, TextSpan):
            words = processor.text.tokenizer.decode(list(span.ids), skip_special_tokens=False).replace("\n", "\\n")
        elif isinstance(span, UnderstandSpan):
            words = f"<picture, {span.num_features} positions>"
        elif isinstance(span, SignalSpan):
            words = f"<signal, {span.num_positions} positions>"
        else:
            words = f"<image ids, {len(span.image_ids)} positions>"
        has_loss = isinstance(span, (TextSpan, GenerateSpan)) and span.loss
        parts.append(f"[[{words}]]" if has_loss else words)
    return "".join(parts)


def _counts(dataset: Dataset, examples: Sequence[Example]) -> list[str]:
    kinds = Counter(row.kind for row in dataset.rows)
    uses = Counter("drawn" if _is_drawn(example) else "answered" for example in examples)
    num_pictures = sum(len(row.pictures) for row in dataset.rows)
    num_train, num_held_out = len(dataset.examples("train")), len(dataset.examples("held_out"))
    return [
        f"{dataset.config.path}: {len(dataset.rows):,} records, {len(dataset.faults):,} unusable",
        "kinds: " + ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common()),
        f"examples: {num_train:,} to train, {num_held_out:,} held out; "
        + ", ".join(f"{count:,} {use}" for use, count in uses.items()),
        f"pictures: {num_pictures:,}, of which {duplicates(dataset):,} occur again (all of one are on one side)",
    ]


def _is_drawn(example: Example) -> bool:
    return example.direction == "draw" or (example.direction == "as it is" and example.row.draws)


def _lengths(lengths: Sequence[int], row_tokens: int) -> list[str]:
    low, middle, high = np.percentile(lengths, (0, 50, 100)).astype(int)
    return [f"positions of a document: {low} to {high}, median {middle}; a row has {row_tokens}"]


def _unused_keys(dataset: Dataset) -> list[str]:
    """Keys of records that nobody reads, with the first place of each."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for row in dataset.rows:
        for key in row.unknown:
            first.setdefault(key, row.where)
            counts[key] += 1
    return [f"not used: key {key!r} of {count:,} records, first in {first[key]}" for key, count in counts.items()]


def _of_faults(faults: Sequence[Fault]) -> list[str]:
    if not faults:
        return ["no faults"]
    lines = [f"faults: {len(faults):,}", *(f"  {fault.where}: {fault.what}" for fault in faults[:NUM_FAULTS])]
    return [*lines, f"  and {len(faults) - NUM_FAULTS:,} more"] if len(faults) > NUM_FAULTS else lines


def drawing_targets(dataset: Dataset, num: int = 12) -> Image.Image | None:
    """Pictures that are to be drawn, with a frame around the part that the model gets; the least square ones first.

    None if nothing is drawn.
    """
    drawn = [example for example in _all_examples(dataset) if _is_drawn(example)]
    pictures = [(open_picture(_drawn_picture(example.row)), example.digest) for example in drawn[: 10 * num]]
    pictures.sort(key=lambda pair: -max(pair[0].size) / min(pair[0].size))
    if not pictures:
        return None
    tiles = [_framed(image, digest, dataset.config) for image, digest in pictures[:num]]
    rows = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    heights = [max(tile.height for tile in row) + GAP_PX for row in rows]
    sheet = Image.new("RGB", (len(rows[0]) * (TILE_PX + GAP_PX) + GAP_PX, sum(heights) + GAP_PX), "white")
    top = GAP_PX
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile, (GAP_PX + column * (TILE_PX + GAP_PX) + (TILE_PX - tile.width) // 2, top))
        top += height
    return sheet


def _all_examples(dataset: Dataset) -> list[Example]:
    return [*dataset.examples("train"), *dataset.examples("held_out")]


def _drawn_picture(row: Row) -> Stored:
    return next(part for role, parts in row.turns if role == "assistant" for part in parts if not isinstance(part, str))


def _framed(image: Image.Image, digest: str, c: DataConfig) -> Image.Image:
    """The whole picture, paler where it is cut off."""
    scale = TILE_PX / max(image.size)
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    kept = random_square(small, digest) if c.crop == "random" else centre_square(small)
    shift = int(digest[:8], 16) / 2**32 if c.crop == "random" else 0.5
    left, top = (round((length - min(small.size)) * shift) for length in small.size)
    pale = Image.blend(small, Image.new("RGB", small.size, "white"), 0.7)
    pale.paste(kept, (left, top))
    ImageDraw.Draw(pale).rectangle((left, top, left + kept.width - 1, top + kept.height - 1), outline="red")
    return pale


def lenient(c: DataConfig) -> DataConfig:
    """The same data, with faults as a part of the report instead of an error."""
    return replace(c, skip_bad=True)
