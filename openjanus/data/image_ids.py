"""Drawings as image ids, made once: the generation eye is frozen while Janus trains, so each picture is encoded one
time.

A file holds ids uint16 [num, N] of the first `num` examples of a source, that source's seed, and a fingerprint of the
tokenizer that made them, so that ids of another tokenizer are refused instead of trained on.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from openjanus.data.sources import find_source
from openjanus.model.image_tokenizer import ImageTokenizer
from openjanus.processing.image import generation_pixels
from openjanus.processing.processor import Conversation

CHUNK = 64


class ImageIds:
    """`image_ids[index]`: int64 [N], the drawing of example `index` of `source` with `seed`."""

    def __init__(self, ids: np.ndarray, source: str, seed: int):
        self.ids, self.source, self.seed = ids, source, seed

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.ids[index].astype(np.int64)

    @classmethod
    def load(cls, path: str, tokenizer: ImageTokenizer) -> "ImageIds":
        """Raises ValueError if the file is missing, damaged or made by another tokenizer."""
        if not Path(path).exists():
            raise ValueError(f"{path}: no such file; make it by `openjanus tokenize`")
        try:
            with safe_open(path, "np") as file:
                meta = file.metadata() or {}
                ids = file.get_tensor("ids")
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged ({error}); make it again by `openjanus tokenize`") from None
        if meta.get("tokenizer") != fingerprint(tokenizer):
            raise ValueError(f"{path}: made by another image tokenizer; make it again by `openjanus tokenize`")
        return cls(ids, meta["source"], int(meta.get("seed", 0)))


def fingerprint(tokenizer: ImageTokenizer) -> str:
    """A short hash over the parameters that decide the ids."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tokenizer.state_dict().items()):
        if name.startswith(("encoder.", "to_code.", "codebook.")):
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.inference_mode()
def tokenize_source(
    tokenizer: ImageTokenizer,
    name: str,
    seed: int,
    num: int,
    path: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Encodes the assistant's picture of examples 0 ... num-1 of the training split of source `name`; atomic."""
    source = find_source(name, "conversations")("train", seed)
    device = next(tokenizer.parameters()).device
    rows = []
    for start in range(0, num, CHUNK):
        pictures = [_drawing(name, source(i)) for i in range(start, min(start + CHUNK, num))]
        pixels = torch.stack([generation_pixels(p, tokenizer.config.image_size_px) for p in pictures])
        pixels = pixels.to(device, memory_format=torch.channels_last)
        rows.append(tokenizer.encode(pixels).cpu().numpy().astype(np.uint16))
        progress(min(start + CHUNK, num))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    meta = {"source": name, "seed": str(seed), "tokenizer": fingerprint(tokenizer)}
    try:
        save_file({"ids": np.concatenate(rows)}, draft, meta)
        draft.replace(path)
    except (OSError, SafetensorError) as error:
        draft.unlink(missing_ok=True)
        raise OSError(f"{path}: cannot be written ({error})") from None


def _drawing(name: str, conversation: Conversation) -> Image.Image:
    pictures = [p for m in conversation if m.role == "assistant" for p in m.content if isinstance(p, Image.Image)]
    if not pictures:
        raise ValueError(f"source {name!r} holds a conversation without a drawing: tokenize emoji.drawings")
    return pictures[0]
