"""Image ids of users' pictures, kept by content: each picture is encoded once, and nobody manages files of ids.

    picture ─► pixels as the image tokenizer sees them ─► hash ─► known ids, or encode and remember

The ids lie in a folder of the cache, one for each image tokenizer (by its fingerprint), in shards that are never
changed: safetensors of `keys` uint8 [n, 16] and `ids` [n, N]. Several processes may write shards at the same time.
"""

import atexit
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from openjanus.data.image_ids import fingerprint
from openjanus.model.image_tokenizer import ImageTokenizer
from openjanus.processing.image import generation_pixels

SHARD = 1024  # new pictures after which a shard is written
BATCH = 16  # pictures that are encoded together


def cache_folder() -> Path:
    """Where openjanus keeps what it can make again: OPENJANUS_CACHE, or openjanus in the user's cache folder."""
    named = os.environ.get("OPENJANUS_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "openjanus"


class IdStore:
    """`store(pictures)`: their ids, int64 [N] each. Pictures of other sizes are fitted as for a drawing.

    encoded: how many pictures had to be encoded so far. Raises ValueError for a damaged shard.
    """

    def __init__(self, tokenizer: ImageTokenizer, folder: Path | None = None):
        self.tokenizer = tokenizer
        self.folder = (folder or cache_folder() / "image_ids") / fingerprint(tokenizer).replace(":", "-")
        self.encoded = 0
        self._rows: dict[bytes, Callable[[], np.ndarray]] = {}
        self._new: dict[bytes, np.ndarray] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            self._read(path)
        atexit.register(self.flush)

    def __len__(self) -> int:
        return len(self._rows) + len(self._new)

    def __call__(self, pictures: Sequence[Image.Image]) -> list[np.ndarray]:
        size_px = self.tokenizer.config.image_size_px
        pixels = [generation_pixels(picture, size_px) for picture in pictures]
        keys = [hashlib.sha256(p.numpy().tobytes()).digest()[:16] for p in pixels]
        missing = {key: p for key, p in zip(keys, pixels, strict=True) if not self._knows(key)}
        names = list(missing)
        for start in range(0, len(names), BATCH):
            part = names[start : start + BATCH]
            self._new.update(zip(part, self._encode([missing[key] for key in part]), strict=True))
        self.encoded += len(names)
        ids = [self._new[key] if key in self._new else self._rows[key]() for key in keys]
        if len(self._new) >= SHARD:
            self.flush()
        return [row.astype(np.int64) for row in ids]

    def _knows(self, key: bytes) -> bool:
        return key in self._rows or key in self._new

    @torch.no_grad()
    def _encode(self, pixels: Sequence[torch.Tensor]) -> np.ndarray:
        weight = next(self.tokenizer.parameters())
        batch = torch.stack(list(pixels)).to(weight.device, weight.dtype, memory_format=torch.channels_last)
        return self.tokenizer.encode(batch).cpu().numpy().astype(np.int32)

    def flush(self) -> None:
        """Writes what is new as a shard, atomically."""
        if not self._new:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        keys = np.stack([np.frombuffer(key, np.uint8) for key in self._new])
        path = self.folder / f"{keys[0].tobytes().hex()}-{len(keys)}-{os.getpid()}.safetensors"
        draft = path.with_suffix(".draft")
        save_file({"keys": keys, "ids": np.stack(list(self._new.values()))}, draft)
        draft.replace(path)
        self._new = {}
        self._read(path)

    def _read(self, path: Path) -> None:
        """Takes in a shard; its ids are read from the file one by one, when they are needed."""
        try:
            shard = safe_open(path, "np")
            keys, ids = shard.get_tensor("keys"), shard.get_slice("ids")
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged ({error}); delete it, and its pictures are encoded again") from None
        for number, key in enumerate(keys):
            self._rows[key.tobytes()] = lambda ids=ids, number=number: ids[number : number + 1][0]  # type: ignore[misc]
