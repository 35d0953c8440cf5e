"""A generation eye whose image ids are products of a shape and a colour: id = shape * num_colours + colour.

    id ─► shape's row and colour's row, joined ─► adaptor ─► body ─► logits of the shape + logits of the colour

What a colour means is learned once, for all shapes, so a pair that was never seen can be drawn. Its image tokenizer
has a codebook of the same kind (eyes/codebook.py). A checkpoint stores it as an ordinary VQEye (`plain`).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.config import ConfigError, PositiveInt
from openjanus.model.vq_eye import VQEye, VQEyeConfig


@dataclass(frozen=True)
class ProductEyeConfig(VQEyeConfig):
    """`colour_width`: of the code's channels, those of the colour."""

    num_colours: PositiveInt = 32
    colour_width: PositiveInt = 4

    def check(self) -> None:
        if self.num_ids % self.num_colours:
            raise ConfigError(f"num_colours is {self.num_colours}, expected a divisor of num_ids {self.num_ids}")
        if self.colour_width >= self.tokenizer.code_width:
            raise ConfigError(f"colour_width is {self.colour_width}, expected less than tokenizer.code_width")

    @property
    def num_shapes(self) -> int:
        return self.num_ids // self.num_colours


class ProductEmbedding(nn.Module):
    """Image ids [...] -> [..., code_width]: the row of the shape and that of the colour, joined."""

    def __init__(self, c: ProductEyeConfig):
        super().__init__()
        self.shapes = nn.Embedding(c.num_shapes, c.tokenizer.code_width - c.colour_width)
        self.colours = nn.Embedding(c.num_colours, c.colour_width)

    def forward(self, ids: Tensor) -> Tensor:
        num_colours = self.colours.num_embeddings
        return torch.cat([self.shapes(ids // num_colours), self.colours(ids % num_colours)], dim=-1)


class ProductHead(nn.Module):
    """Hidden states -> logits [..., num_ids]: linear, GELU, and the sum of two linear layers."""

    def __init__(self, c: ProductEyeConfig, width: int):
        super().__init__()
        self.up = nn.Linear(width, c.head_width)
        self.gelu: nn.Module = nn.GELU()
        self.shapes = nn.Linear(c.head_width, c.num_shapes)
        self.colours = nn.Linear(c.head_width, c.num_colours)

    def forward(self, hidden: Tensor) -> Tensor:
        x = self.gelu(self.up(hidden))
        return (self.shapes(x)[..., :, None] + self.colours(x)[..., None, :]).flatten(-2)

    def cross_entropy(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Cross-entropy of `forward`'s logits with ids [n], summed over n: a sum of two, as the logits are."""
        x, num_colours = self.gelu(self.up(hidden)), self.colours.out_features
        shape = F.cross_entropy(self.shapes(x).float(), ids // num_colours, reduction="sum")
        return shape + F.cross_entropy(self.colours(x).float(), ids % num_colours, reduction="sum")


class ProductEye(VQEye):
    config: ProductEyeConfig
    embedding: ProductEmbedding  # type: ignore[assignment]
    head: ProductHead

    def __init__(self, c: ProductEyeConfig, width: int):
        super().__init__(c, width)
        self.embedding, self.head = ProductEmbedding(c), ProductHead(c, width)

    def start_from_tokenizer(self) -> None:
        """As VQEye's, for a codebook whose rows are products."""
        c = self.config
        codes = self.tokenizer.codes().view(c.num_shapes, c.num_colours, -1)
        with torch.no_grad():
            self.embedding.shapes.weight.copy_(codes[:, 0, : -c.colour_width])
            self.embedding.colours.weight.copy_(codes[0, :, -c.colour_width :])

    @torch.no_grad()
    def plain(self) -> VQEye:
        """An ordinary eye with the same embeddings and logits: both tables written out, row by row."""
        c, head = self.config, self.head
        state = {name: tensor for name, tensor in self.state_dict().items() if "shapes" not in name}
        state = {name: tensor for name, tensor in state.items() if "colours" not in name}
        state["embedding.weight"] = self.embedding(torch.arange(c.num_ids, device=head.up.weight.device))
        state["head.out.weight"] = (head.shapes.weight[:, None] + head.colours.weight).flatten(0, 1)
        state["head.out.bias"] = (head.shapes.bias[:, None] + head.colours.bias).flatten()
        with torch.device("meta"):
            eye = VQEye(VQEyeConfig(c.tokenizer, c.head_width), head.up.in_features)
        eye.load_state_dict(state, assign=True)
        return eye
