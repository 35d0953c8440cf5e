"""Guidance per request inside vLLM: `extra_args={"guidance": 3.0}` of a request's sampling parameters.

The model returns image logits guided with the server's scale g0, and the differences c - u (vocabulary.py, `changes`).
This logits processor changes the scale of each row to g: guided + (g - g0) (c - u) = u + g (c - u).
"""

from typing import Any

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from openjanus.fleet.config import FleetConfig
from openjanus.fleet.scale import requested_guidance
from openjanus.fleet.vocabulary import Vocabulary


def rescale(logits: Tensor, more: Tensor, v: Vocabulary) -> Tensor:
    """logits [R, size], more [R, 1]: g - g0 of each row. In place; sets the columns that are not ids to -inf."""
    change = logits[:, v.changes :]
    logits[:, v.num_text : v.draw_id] += torch.where(change.isfinite(), more * change, 0)
    logits[:, v.changes :] = float("-inf")
    return logits


class Guidance(LogitsProcessor):
    """`--logits-processors openjanus.fleet.guidance:Guidance`"""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        requested_guidance(sampling_params.extra_args)

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool):
        config: FleetConfig = vllm_config.model_config.hf_config
        self.v, self.default_scale, self.device = config.read_vocabulary(), config.guidance, device
        self.more: dict[int, float] = {}  # row -> g - g0, if that is not 0
        self.column: Tensor | None = None

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for row in batch_update.removed:
            self.more.pop(row, None)
        for row, params, *_ in batch_update.added:
            scale = requested_guidance(params.extra_args)
            self._set(row, None if scale is None else scale - self.default_scale)
        for one, other, direction in batch_update.moved:
            of_one, of_other = self.more.pop(one, None), self.more.pop(other, None)
            self._set(other, of_one)
            if direction == MoveDirectionality.SWAP:
                self._set(one, of_other)
        more: Any = [self.more.get(row, 0.0) for row in range(batch_update.batch_size)]
        self.column = torch.tensor(more, dtype=torch.float32, device=self.device)[:, None]

    def _set(self, row: int, more: float | None) -> None:
        if more:
            self.more[row] = more
        else:
            self.more.pop(row, None)

    def apply(self, logits: Tensor) -> Tensor:
        if self.column is None:
            return rescale(logits, logits.new_zeros(len(logits), 1), self.v)
        return rescale(logits, self.column[: len(logits)], self.v)
