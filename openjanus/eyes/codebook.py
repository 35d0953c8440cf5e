"""Codebooks in training: their initialisation by k-means, the revival of rare codes, and codebooks of two halves.

    id = shape * num_colours + colour;  code(id) = [shape's row, colour's row], each of unit length, over sqrt(2)

For unit halves the nearest code of the plain table is the nearest row in each half. So a `ProductCodebook` is stored
as a plain table, too, and the finished tokenizer is an ordinary one.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.model.image_tokenizer import ImageTokenizer

RARE = 0.1  # uses a step
SEED_ROUNDS = 20


class ProductCodebook(nn.Module):
    """Stands for an nn.Embedding [S * K, Cs + Cc] whose rows are made of S shapes [Cs] and K colours [Cc]."""

    def __init__(self, num_shapes: int, num_colours: int, shape_width: int, colour_width: int):
        super().__init__()
        self.shapes = nn.Parameter(F.normalize(torch.randn(num_shapes, shape_width), dim=-1))
        self.colours = nn.Parameter(F.normalize(torch.randn(num_colours, colour_width), dim=-1))

    @property
    def weight(self) -> Tensor:
        """The plain table, row s * K + c."""
        return self(torch.arange(len(self.shapes) * len(self.colours), device=self.shapes.device))

    def forward(self, ids: Tensor) -> Tensor:
        rows = (self.shapes[ids // len(self.colours)], self.colours[ids % len(self.colours)])
        return join_halves(*rows)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight.detach()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        state_dict.pop(f"{prefix}weight", None)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def join_halves(shape: Tensor, colour: Tensor, dim: int = -1) -> Tensor:
    """Two halves as one vector of unit length, to which each contributes alike."""
    return torch.cat([F.normalize(shape, dim=dim), F.normalize(colour, dim=dim)], dim=dim) / 2**0.5


def tables_of(codebook: nn.Module) -> list[tuple[nn.Parameter, slice]]:
    """The tables of codes that are learned, and the channels of a latent that each of them is compared with."""
    if isinstance(codebook, ProductCodebook):
        width, whole = codebook.shapes.shape[1], codebook.shapes.shape[1] + codebook.colours.shape[1]
        return [(codebook.shapes, slice(0, width)), (codebook.colours, slice(width, whole))]
    table = codebook.weight
    assert isinstance(table, nn.Parameter)
    return [(table, slice(0, table.shape[1]))]


def count_uses(codebook: nn.Module, ids: Tensor) -> Tensor:
    """How often each row of `tables_of` was chosen, one table after the other."""
    if not isinstance(codebook, ProductCodebook):
        return torch.bincount(ids.flatten(), minlength=len(codebook.weight))  # type: ignore[arg-type]
    shapes, colours = (ids // len(codebook.colours)).flatten(), (ids % len(codebook.colours)).flatten()
    return torch.cat(
        [
            torch.bincount(shapes, minlength=len(codebook.shapes)),
            torch.bincount(colours, minlength=len(codebook.colours)),
        ]
    )


@torch.no_grad()
def latents_of(tokenizer: ImageTokenizer, batch: Tensor) -> Tensor:
    """Pixels [M, 3, H, W] -> latents of all places, [M N, C], in float32 as the codebook."""
    z = tokenizer.to_code(tokenizer.encoder(batch)).float()
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])


@torch.no_grad()
def seed_codebook(tokenizer: ImageTokenizer, batches: Sequence[Tensor], generator: torch.Generator) -> None:
    """Spherical k-means over the latents of some batches, for each table; clusters of fewer than two move to latents
    with a large error."""
    latents = torch.cat([latents_of(tokenizer, batch) for batch in batches])
    for table, channels in tables_of(tokenizer.codebook):
        rows, centres = F.normalize(latents[:, channels], dim=-1), F.normalize(table, dim=-1)
        for round in range(SEED_ROUNDS):
            cosine, nearest = (rows @ centres.T).max(dim=1)
            if round % 2 == 0 and round < SEED_ROUNDS - 4:
                rare = (torch.bincount(nearest, minlength=len(centres)) < 2).nonzero()[:, 0]
                if len(rare):
                    chosen = torch.multinomial((1 - cosine).clamp(min=1e-6).cpu(), len(rare), generator=generator)
                    centres[rare] = rows[chosen.to(rows.device)]
            else:
                centres = F.normalize(centres * 1e-3 + torch.zeros_like(centres).index_add(0, nearest, rows), dim=1)
        table.copy_(centres)


@torch.no_grad()
def revive_codes(tokenizer: ImageTokenizer, uses: Tensor, batch: Tensor, generator: torch.Generator) -> None:
    """Moves codes used less than `RARE` times a step to latents of the batch, preferring those with a large error.

    uses: recent uses a step of each row of `tables_of`; those of moved codes become 1.
    """
    latents, first = latents_of(tokenizer, batch), 0
    for table, channels in tables_of(tokenizer.codebook):
        rows, own = F.normalize(latents[:, channels], dim=-1), uses[first : first + len(table)]
        first += len(table)
        error = (1 - (rows @ F.normalize(table, dim=-1).T).max(dim=1).values).clamp(min=1e-6)
        rare = (own < RARE).nonzero()[:, 0][: len(rows)]
        if len(rare):
            chosen = torch.multinomial(error.cpu(), len(rare), generator=generator).to(rows.device)
            table[rare] = rows[chosen]
            own[rare] = 1.0
