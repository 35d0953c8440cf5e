"""What all eyes have in common, and what the rest of openjanus may ask of one.

    pixels [M, 3, H, W]  ─► understanding eye ─► embeddings [M, N, D]
    image ids [...]      ─► generation eye ────► embeddings [..., D];   hidden ─► its head ─► logits over its ids
    signals [M, ...]     ─► signal eye ────────► embeddings [M, N, D]

An eye is a config class and a module class; the tables in model/janus.py pair them. A new eye is a file with both and
a line in a table.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from openjanus.config import Config


class Adaptor(nn.Module):
    """Two linear layers with GELU between, from an eye's width to the body's (`mlp_gelu`, depth 2)."""

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.up = nn.Linear(width_in, width)
        self.gelu: nn.Module = nn.GELU()
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gelu(self.up(x)))


def initialise_normal(*parts: nn.Module) -> None:
    """As Llama's matrices: Normal(0, 0.02); zero biases."""
    for part in parts:
        for p in part.parameters():
            nn.init.normal_(p, std=0.02) if p.dim() == 2 else nn.init.zeros_(p)


class GenerationEyeConfig(Config):
    """Base of the configs of generation eyes."""

    @property
    def image_size_px(self) -> int:
        """Side of the square pictures that it draws."""
        raise NotImplementedError

    @property
    def grid_side(self) -> int:
        """Image ids along one side of a picture."""
        raise NotImplementedError

    @property
    def num_ids(self) -> int:
        """Different image ids: logits of its head."""
        raise NotImplementedError

    @property
    def num_image_ids(self) -> int:
        """Image ids per picture, N."""
        return self.grid_side**2


class UnderstandingEyeConfig(Config):
    """Base of the configs of understanding eyes. Both sizes may depend on the generation eye beside it."""

    def num_features(self, generation: GenerationEyeConfig) -> int:
        """Positions that a picture takes, N."""
        raise NotImplementedError

    def image_size_px(self, generation: GenerationEyeConfig) -> int:
        """Side of the square pictures that it takes."""
        raise NotImplementedError


class SignalEyeConfig(Config):
    """Base of the configs of signal eyes."""

    @property
    def num_positions(self) -> int:
        """Positions that a signal takes, N."""
        raise NotImplementedError


class Eye(nn.Module):
    """heavy: names of parts that compute much with each weight. To quantise them saves no time, so their matrices keep
    16 bits or more. precise: names of parts that are never quantised, and stay in float32 where the model is in
    float16, because their activations leave its range.
    """

    heavy: ClassVar[tuple[str, ...]] = ()
    precise: ClassVar[tuple[str, ...]] = ()

    def initialise(self) -> None:
        """What starts otherwise than torch's layers start by themselves. Called once, when the whole model is made."""

    def stored_name(self, name: str) -> str:
        """The name in our checkpoints of the parameter that the eye calls `name`."""
        return name


class UnderstandingEye(Eye):
    """`forward`: pixels [M, 3, H, W] in [-1, 1] -> embeddings [M, N, D]. Made from its config and the body's width."""

    num_features: int

    def connect(self, generation: "GenerationEye") -> None:
        """Shows it the generation eye beside it, once both are made."""


class SignalEye(Eye):
    """Lets in what is neither text nor picture, such as a sound or a point cloud (arXiv 2410.13848, §3.5).

    `forward`: signals float [M, ...], all of one shape -> embeddings [M, N, D]. Made from its config and the body's
    width.
    """


class PictureCache(Protocol):
    """What a generation eye remembers of several pictures, at the index of each id. Who writes index i has written all
    before it, so a picture can be continued from any earlier id."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Makes picture `target` remember the first `length` ids of picture `source`."""

    def rows(self, start: int, stop: int, position: Tensor, reach: int) -> Any:
        """The pictures from `start` to `stop`, about to be continued by the ids of index `position` [M, T]; `reach` is
        1 + the largest index. What the eye's `forward` takes."""


class GenerationEye(Eye):
    """`forward`: image ids [...] -> embeddings [..., D], each id by itself. Made from its config and the body's width.

    tokenizer: a module that turns pixels into image ids and back (`encode`, `decode`), whose config has
    `image_size_px`. head: hidden [..., D] -> logits [..., num_ids].
    """

    config: GenerationEyeConfig
    tokenizer: Any
    head: nn.Module

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels [M, 3, H, W] in [-1, 1] -> image ids [M, N], reading order."""
        return self.tokenizer.encode(pixels)

    def decode(self, image_ids: Tensor) -> Tensor:
        """Image ids [M, N] -> pixels [M, 3, H, W], about [-1, 1] (not clipped)."""
        return self.tokenizer.decode(image_ids)

    def start_from_tokenizer(self) -> None:
        """Initialises what begins as a part of the tokenizer. Called when the model is made, and again when a training
        has put another tokenizer into it."""

    def plain(self) -> "GenerationEye":
        """The eye as checkpoints store it: itself, or another one that computes the same."""
        return self

    def embed_pictures(self, image_ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """Image ids [n] of whole pictures, one picture after the other with so many ids each -> embeddings [n, D]."""
        return self(image_ids)

    def make_cache(self, num_pictures: int) -> PictureCache | None:
        """None: an id's embedding depends on no other id."""
        return None


class RememberingEye(GenerationEye):
    """A generation eye whose embedding of an id depends on the ids before it in the same picture.

    `forward`: image ids [M, T] -> embeddings [M, T, D]. Without a cache they are the first T ids of M pictures, and
    embedding t depends on ids 0 to t of its picture only. With `cache` (PictureCache.rows) they continue M pictures.
    """

    def forward(self, image_ids: Tensor, cache: Any = None) -> Tensor:
        raise NotImplementedError

    def make_cache(self, num_pictures: int) -> PictureCache:
        raise NotImplementedError

    def embed_pictures(self, image_ids: Tensor, lengths: Sequence[int]) -> Tensor:
        pictures = image_ids.split(list(lengths))
        embedded = self(pad_sequence(list(pictures), batch_first=True))  # padding comes later than all that counts
        return torch.cat([x[:length] for x, length in zip(embedded, lengths, strict=True)])
