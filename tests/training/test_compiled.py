"""Compiled layers compute what plain ones do, and FlexAttention what the oracle of attention does."""

import pytest
import torch
from torch._dynamo.utils import counters

from openjanus.model.attention import attend, attend_slowly, causal_document_mask
from openjanus.training.compiled import DocumentMask
from openjanus.training.janus import JanusTraining, janus_loss, janus_training
from openjanus.training.stage import Stage
from tests import tiny

DOCUMENT = torch.tensor([[0] * 50 + [1] * 90 + [2] * 60, [0] * 130 + [-1] * 70])


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_attention_by_blocks_equals_the_oracle(num_kv_heads) -> None:
    """Forward, on the CPU: there is no way back there. tests/gpu has both."""
    torch.manual_seed(0)
    T = DOCUMENT.shape[1]
    q, k, v = (torch.randn(2, heads, T, 16) for heads in (4, num_kv_heads, num_kv_heads))
    with torch.no_grad():
        got = attend(q, k, v, DocumentMask(DOCUMENT))
    torch.testing.assert_close(got, attend_slowly(q, k, v, causal_document_mask(DOCUMENT)), rtol=1e-4, atol=1e-5)
    other = attend_slowly(q, k, v, causal_document_mask(torch.zeros_like(DOCUMENT)))
    assert (got - other).abs().max() > 0.1  # documents are told apart


@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_layers_give_the_same_losses_and_gradients(recompute) -> None:
    results = []
    for compiled in (False, True):
        torch._dynamo.reset()
        counters.clear()
        config = JanusTraining("", row_tokens=192, recompute=recompute, compile=compiled)
        training = janus_training(config, 0, tiny.checkpoint())
        training.model.train().requires_grad_(True)
        stage = Stage("s", 1, 1e-3, {"emoji.questions": 2, "emoji.drawings": 3})
        losses = []
        for batch in training.data(stage, 0):
            loss, _ = janus_loss(training.model, batch, 0)
            loss.backward()
            losses.append(loss.item())
        num_graphs = counters["stats"]["unique_graphs"]
        assert (num_graphs >= 1) == compiled, counters
        named = training.model.named_parameters()
        results.append((losses, {name: p.grad for name, p in named if p.grad is not None}))
    (plain, gradients), (losses, compiled_gradients) = results
    assert losses == pytest.approx(plain, rel=1e-5) and gradients.keys() == compiled_gradients.keys()
    assert any(name.startswith("language_model.layers.1") for name in gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(compiled_gradients[name], gradient, rtol=1e-3, atol=1e-5)
