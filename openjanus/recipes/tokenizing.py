"""Drawings to image ids before a training: of a source into one file, of a user's data into the store of ids."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import save_file

from openjanus.data.config import DataConfig
from openjanus.data.id_store import IdStore
from openjanus.data.image_ids import encode, fingerprint
from openjanus.data.sources import find_source
from openjanus.model.image_tokenizer import ImageTokenizer
from openjanus.processing.processor import Conversation
from openjanus.readers.dataset import open_data

CHUNK = 64


@torch.inference_mode()
def tokenize_source(
    tokenizer: ImageTokenizer,
    name: str,
    seed: int,
    num: int,
    path: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Encodes the assistant's picture of examples 0 ... num-1 of the training split of source `name`; atomic.

    Raises ValueError if `num` is below 1, or an example has not exactly one such picture.
    """
    if num < 1:
        raise ValueError(f"num is {num}, expected 1 or more")
    source = find_source(name, "conversations")("train", seed)
    rows = []
    for start in range(0, num, CHUNK):
        pictures = [_drawing(source(i), name, i) for i in range(start, min(start + CHUNK, num))]
        ids = encode(tokenizer, pictures)
        rows.append(ids.astype(np.uint16 if ids.max() < 1 << 16 else np.int32))
        progress(min(start + CHUNK, num))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    meta = {"source": name, "seed": str(seed), "tokenizer": fingerprint(tokenizer)}
    try:
        save_file({"ids": np.ascontiguousarray(np.concatenate(rows))}, draft, meta)  # it ignores strides
        draft.replace(path)
    except (OSError, SafetensorError) as error:
        draft.unlink(missing_ok=True)
        raise OSError(f"{path}: cannot be written ({error})") from None


def tokenize_data(
    tokenizer: ImageTokenizer,
    data: DataConfig,
    part: int = 0,
    num_parts: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Encodes the pictures that a user's data draws, and those of its edits; returns how many were new.

    What is known is left out, so an interrupted call goes on. Several processes may each take a part. The
    pictures are read a chunk at a time. Raises ValueError for data that cannot be used.
    """
    opened, store = open_data(data), IdStore(tokenizer)
    examples = [*opened.examples("train"), *opened.examples("held_out")]
    drawing = [e for e in examples if e.direction == "draw" or (e.direction == "as it is" and e.row.draws)]
    drawing = drawing[part::num_parts]
    for start in range(0, len(drawing), CHUNK):
        pictures = []
        for example in drawing[start : start + CHUNK]:
            conversation = opened.conversation(example, np.random.default_rng(0))
            roles = ("user", "assistant") if example.row.edits else ("assistant",)
            pictures += [p for m in conversation if m.role in roles for p in m.content if isinstance(p, Image.Image)]
        store(pictures)
        progress(min(start + CHUNK, len(drawing)), len(drawing))
    store.flush()
    return store.encoded


def _drawing(conversation: Conversation, name: str, index: int) -> Image.Image:
    drawings = [p for m in conversation if m.role == "assistant" for p in m.content if isinstance(p, Image.Image)]
    if len(drawings) != 1:
        raise ValueError(f"example {index} of {name} has {len(drawings)} drawings of the assistant, expected one")
    return drawings[0]
