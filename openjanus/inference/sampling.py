"""How the next id is chosen from logits: guidance, temperature, top-k, top-p, and a seed of its own for every row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from openjanus.config import Config, NonNegativeFloat, NonNegativeInt, Range

MAX_PICTURES = 64  # of one seed and prompt: each has a generator seed of its own
MIN_TEMPERATURE = torch.finfo(torch.float32).tiny  # smaller ones are 0 in float32; this one is their limit already


@dataclass(frozen=True)
class SamplingOptions(Config):
    """Settings of one request.

    temperature: divides the logits; 0 takes the most probable id.
    top_k, top_p: keep the k most probable ids, the fewest ids of total probability p; 0 and 1 switch them off.
    guidance: s in u + s (c - u) (arXiv 2410.13848 §3.4); 1 runs without an unconditional row. Drawings only.
    image_guidance: the scale for the pictures of a prompt; `guidance` is then the one for its words (prompt.py,
    `guidance_rows`). None: `guidance` for both, with two rows. A prompt without pictures does not use it.
    seed: picture k of a request depends on (seed, k) alone, not on what else is drawn beside it.
    n: pictures per prompt.
    """

    temperature: NonNegativeFloat = 1.0
    top_k: NonNegativeInt = 0
    top_p: Annotated[float, Range(above=0, most=1)] = 1.0
    guidance: Annotated[float, Range(1)] = 5.0
    image_guidance: Annotated[float, Range(1)] | None = None
    seed: Annotated[int, Range(0, 2**57 - 1)] = 0  # times MAX_PICTURES below 2**63
    n: Annotated[int, Range(1, MAX_PICTURES)] = 1


class Settings(TypedDict, total=False):
    """Keyword settings of a drawing: those of `SamplingOptions`; None stands for the checkpoint's own default."""

    n: int | None
    seed: int | None
    guidance: float | None
    image_guidance: float | None
    temperature: float | None
    top_k: int | None
    top_p: float | None


def choose_options(base: Mapping[str, Any], **settings: float | None) -> SamplingOptions:
    """What is given among `settings`, else what `base` says, else the paper's. Raises ValueError."""
    chosen: dict[str, Any] = {**base, **{name: value for name, value in settings.items() if value is not None}}
    known = {f.name for f in fields(SamplingOptions)}
    unknown = set(chosen) - known
    if unknown:
        raise ValueError(f"unknown sampling option {sorted(unknown)[0]!r}, expected one of {', '.join(sorted(known))}")
    for name in ("top_k", "seed", "n"):  # a checkpoint's settings are floats
        value = chosen.get(name, 0)
        if value != int(value):
            raise ValueError(f"{name} is {value}, expected a whole number")
        if name in chosen:
            chosen[name] = int(value)
    return SamplingOptions(**chosen)


class Sampler:
    """Chooses ids for rows; row r draws its noise from a generator of its own."""

    def __init__(self, options: SamplingOptions, rows: Sequence[int]):
        """`rows`: for each row, its number k within its request."""
        self.options = options
        # On the CPU everywhere, so that a seed gives the same noise on every device.
        self.generators = [torch.Generator().manual_seed(options.seed * MAX_PICTURES + k) for k in rows]

    @property
    def num_rows(self) -> int:
        return len(self.generators)

    def choose(self, logits: Tensor) -> Tensor:
        """logits [R, V] -> ids [R]."""
        if self.options.temperature == 0:
            return logits.argmax(dim=-1)
        # From pinned memory, which a GPU reads while the host goes on.
        noise = torch.empty(len(self.generators), logits.shape[-1], pin_memory=logits.is_cuda)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        return choose(self.probabilities(logits), noise.to(logits.device, non_blocking=True))

    def probabilities(self, logits: Tensor) -> Tensor:
        """The distribution that ids are drawn from: logits [..., V] -> [..., V] in float32."""
        o = self.options
        if o.temperature == 0:
            return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
        logits = logits.float()
        # From the largest one down: a temperature near 0 sends the others to -inf, and none to +inf.
        relative = (logits - logits.amax(dim=-1, keepdim=True)) / max(o.temperature, MIN_TEMPERATURE)
        return torch.softmax(restrict(relative, o.top_k, o.top_p), dim=-1)


def choose(probabilities: Tensor, noise: Tensor) -> Tensor:
    """Ids by probabilities and Exponential(1) noise, both [..., V] -> [...]."""
    # argmax of p / noise is a draw from p, and needs no synchronisation with the host
    return (probabilities / noise).argmax(dim=-1)


def restrict(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Sets to -inf what lies outside the k most probable ids or the nucleus of probability p. [..., V] -> [..., V]"""
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], float("-inf"))
    if top_p < 1:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(dim=-1)
        outside = probabilities.cumsum(dim=-1) - probabilities >= top_p  # the first id always stays
        logits = logits.masked_fill(outside.scatter(-1, order, outside), float("-inf"))
    return logits


def guide(rows: Sequence[Tensor], scales: Sequence[float | Tensor]) -> Tensor:
    """Logits [..., V] of each guidance row -> guided logits [..., V] in float32.

    rows: the first is that of the whole prompt, each next one lacks more of it. scales: one for each row but the last,
    a number or [..., 1]; it multiplies the difference of this row from the next one. One row gives itself, two rows c
    and u give u + s (c - u) (arXiv 2410.13848 §3.4), three rows are equation 3 of arXiv 2211.09800.
    """
    guided = less = rows[-1].float()
    for row, scale in zip(reversed(rows[:-1]), reversed(scales), strict=True):
        more = row.float()
        guided = guided + scale * (more - less)
        less = more
    return guided
