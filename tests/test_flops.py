"""Useful FLOPs against those that torch counts: trained in full, LoRA beside plain and stored matrices, frozen eyes."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from openjanus.flops import _products, product_speeds, speed, step_flops
from openjanus.model.janus import Janus
from openjanus.model.lora import LoRALinear, LoRAStored
from openjanus.runtime import Runtime
from openjanus.sequence import Batch
from openjanus.training.janus import JanusTraining, janus_loss, janus_training
from openjanus.training.loop import Training
from openjanus.training.lora import LoRAConfig
from openjanus.training.stage import choose_trainable
from tests import tiny

CPU = Runtime(torch.device("cpu"), "float32", "test")
MIXTURE = {"emoji.questions": 2, "emoji.drawings": 1, "emoji.texts": 1}
ALL = ("*", "!generation.tokenizer.*")
LORA = ("*.lora_a", "*.lora_b", "generation.head.*")
WHOLE = (*LORA, "*.adaptor.*", "*.embedding.*")  # gradients go back through every layer


def made(lora: LoRAConfig | None, patterns: tuple[str, ...]) -> tuple[Training, list[Batch]]:
    """One document a row, so that torch computes no attention between documents."""
    training = janus_training(JanusTraining("", lora=lora), 0, tiny.checkpoint())
    choose_trainable(training.model, patterns)
    data = training.data
    documents = [data.document(name, data.source(name), 0) for name in MIXTURE]  # type: ignore[attr-defined]
    return training, [data.packed([document])[0] for document in documents]  # type: ignore[attr-defined]


def counted_by_torch(model: Janus, batch: Batch) -> int:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss, _ = janus_loss(model, batch, 0)
        loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("lora", "patterns"),
    [
        (None, ALL),
        (None, (*ALL, "!understanding.encoder.*")),
        (LoRAConfig(4), WHOLE),
    ],
)
def test_useful_work_is_what_torch_counts_without_padding_and_masks(lora, patterns) -> None:
    training, batches = made(lora, patterns)
    model, c = training.model, training.model.config.language_model
    for batch in batches:
        B, T = batch.tokens.shape
        padding = batch.document < 0
        useful, counted = step_flops(model, [batch]), counted_by_torch(model, batch)
        # torch computes padding and what the mask hides, too
        pairs = B * T * T - int((batch.position + 1)[~padding].sum())
        hidden = 6 * c.num_layers * 2 * pairs * c.num_heads * c.head_width
        per_position = step_flops(model, [_one_position(batch)]) - 6 * c.num_layers * 2 * c.num_heads * c.head_width
        expected = counted - hidden - int(padding.sum()) * per_position
        assert useful == pytest.approx(expected, rel=0.03), (useful, expected)
    assert step_flops(model, batches) == sum(step_flops(model, [batch]) for batch in batches)


def _one_position(batch: Batch) -> Batch:
    """A row of one text position without a target."""
    one = torch.zeros(1, 1, dtype=torch.int64)
    return Batch(tokens=one, position=one, places={}, kind=one, document=one, target=one, target_kind=one, targets={})


def test_a_stored_matrix_is_as_much_work_as_a_frozen_one() -> None:
    plain = LoRALinear(nn.Linear(8, 6).requires_grad_(False), 2, 4.0)
    stored = LoRAStored(SimpleNamespace(in_features=8, out_features=6, weight=torch.zeros(1)), 2, 4.0)
    assert _products(plain, gradient=True) == _products(stored, gradient=True) == 2 * 48 + 3 * (16 + 12)


def test_what_is_frozen_is_less_work() -> None:
    full, frozen = (step_flops(*_first(made(None, patterns))) for patterns in (ALL, (*ALL, "!understanding.encoder.*")))
    adapted = step_flops(*_first(made(LoRAConfig(1), LORA)))
    assert adapted < frozen < full


def _first(made: tuple[Training, list[Batch]]) -> tuple[Janus, list[Batch]]:
    return made[0].model, made[1][:1]


def test_speeds_of_products_are_measured() -> None:
    own, large = product_speeds(tiny.janus(), 64, 16, CPU)
    assert own > 1e6 and large > 1e8
    assert speed([(8, 8, 8)], CPU) > 0
