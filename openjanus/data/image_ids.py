"""Drawings stored as image ids: the image tokenizer is frozen while Janus trains, so each picture is encoded once.

A file holds ids [num, N] of the first `num` examples of a source, that source's seed, and a fingerprint of the image
tokenizer that made them, so that ids of another tokenizer are an error. Ids are stored as uint16,
or as int32 if one of them is above 65,535.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import nn

from openjanus.model.image_tokenizer import ImageTokenizer
from openjanus.processing.image import generation_pixels


@dataclass(frozen=True, eq=False)
class ImageIds:
    """`image_ids[index]`: int64 [N], the drawing of example `index` of `source` with `seed`.

    tokenizer: the fingerprint of the image tokenizer that made them.
    """

    path: str
    ids: np.ndarray  # [num, N]
    source: str
    seed: int
    tokenizer: str

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


ALL = "all:"  # prefix of a fingerprint over all tensors; older files have fingerprints without it


def fingerprint(tokenizer: nn.Module) -> str:
    """A short hash over names, shapes and values of all tensors of an image tokenizer.

    Raises ValueError if it has no tensors, because then all would be equal.
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
    """The fingerprint of older files: a hash over the tensors of `ImageTokenizer` that decide the ids. None without
    such tensors."""
    prefixes = ("encoder.", "to_code.", "codebook.")
    tensors = [tensor for name, tensor in sorted(tokenizer.state_dict().items()) if name.startswith(prefixes)]
    return hashlib.sha256(b"".join(map(_bytes, tensors))).hexdigest()[:16] if tensors else None


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().float().contiguous().numpy().tobytes()


@torch.no_grad()
def encode(tokenizer: ImageTokenizer, pictures: list[Image.Image]) -> np.ndarray:
    """Pictures -> image ids, int64 [M, N]."""
    pixels = torch.stack([generation_pixels(p, tokenizer.config.image_size_px) for p in pictures])
    device = next(tokenizer.parameters()).device
    return tokenizer.encode(pixels.to(device, memory_format=torch.channels_last)).cpu().numpy()
