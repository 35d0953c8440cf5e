"""Drawings as image ids, made once: the generation eye is frozen while Janus trains, so each picture is encoded one
time.

A file holds ids [num, N] of the first `num` examples of a source, that source's seed, and a fingerprint of the image
tokenizer that made them, so that ids of another tokenizer are refused instead of trained on. Ids are stored as uint16,
or as int32 if one of them is above 65,535.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import nn

from openjanus.data.sources import find_source
from openjanus.model.image_tokenizer import ImageTokenizer
from openjanus.processing.image import generation_pixels
from openjanus.processing.processor import Conversation

CHUNK = 64


class ImageIds:
    """`image_ids[index]`: int64 [N], the drawing of example `index` of `source` with `seed`.

    tokenizer: the fingerprint of the image tokenizer that made them.
    """

    def __init__(self, path: str, ids: np.ndarray, source: str, seed: int, tokenizer: str):
        self.path, self.ids, self.source, self.seed, self.tokenizer = path, ids, source, seed, tokenizer

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.ids[index].astype(np.int64)

    @classmethod
    def read(cls, path: str) -> "ImageIds":
        """Raises ValueError if the file is missing or damaged."""
        if not Path(path).exists():
            raise ValueError(f"{path}: no such file; make it by `openjanus tokenize`")
        try:
            with safe_open(path, "np") as file:
                meta = file.metadata() or {}
                ids = file.get_tensor("ids")
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged ({error}); make it again by `openjanus tokenize`") from None
        if "source" not in meta or "tokenizer" not in meta:
            raise ValueError(f"{path}: not a file of `openjanus tokenize`: it names no source and image tokenizer")
        return cls(path, ids, meta["source"], int(meta.get("seed", 0)), meta["tokenizer"])

    def check(self, tokenizer: nn.Module) -> None:
        """Raises ValueError if another image tokenizer made the ids."""
        known = fingerprint(tokenizer) if self.tokenizer.startswith(ALL) else _former_fingerprint(tokenizer)
        if self.tokenizer != known:
            raise ValueError(
                f"{self.path}: made by another image tokenizer than this training has; for a new run make it again by "
                "`openjanus tokenize`, for one that goes on put back the file that it began with"
            )


ALL = "all:"  # begins a fingerprint over all tensors; one without it is of a file that was made before


def fingerprint(tokenizer: nn.Module) -> str:
    """A short hash over names, shapes and values of all tensors of an image tokenizer.

    Raises ValueError if it has none: then it could not be told from another one.
    """
    state = tokenizer.state_dict()
    if not state:
        raise ValueError(f"{type(tokenizer).__name__} has no tensors: an image tokenizer is known by its tensors")
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return ALL + digest.hexdigest()[:16]


def _former_fingerprint(tokenizer: nn.Module) -> str | None:
    """What files held before: a hash over the tensors of `ImageTokenizer` that decide the ids. None if there are none
    of these names."""
    prefixes = ("encoder.", "to_code.", "codebook.")
    tensors = [tensor for name, tensor in sorted(tokenizer.state_dict().items()) if name.startswith(prefixes)]
    return hashlib.sha256(b"".join(map(_bytes, tensors))).hexdigest()[:16] if tensors else None


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().float().contiguous().numpy().tobytes()


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
        save_file({"ids": np.ascontiguousarray(np.concatenate(rows))}, draft, meta)  # it writes memory as it lies
        draft.replace(path)
    except (OSError, SafetensorError) as error:
        draft.unlink(missing_ok=True)
        raise OSError(f"{path}: cannot be written ({error})") from None


@torch.no_grad()
def encode(tokenizer: ImageTokenizer, pictures: list[Image.Image]) -> np.ndarray:
    """Pictures -> image ids, int64 [M, N]."""
    pixels = torch.stack([generation_pixels(p, tokenizer.config.image_size_px) for p in pictures])
    device = next(tokenizer.parameters()).device
    return tokenizer.encode(pixels.to(device, memory_format=torch.channels_last)).cpu().numpy()


def _drawing(conversation: Conversation, name: str, index: int) -> Image.Image:
    drawings = [p for m in conversation if m.role == "assistant" for p in m.content if isinstance(p, Image.Image)]
    if len(drawings) != 1:
        raise ValueError(f"example {index} of {name} has {len(drawings)} drawings of the assistant, expected one")
    return drawings[0]
