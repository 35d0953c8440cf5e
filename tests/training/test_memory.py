"""Chunks of logits and recomputed layers give the same losses and gradients, and keep less."""

import pytest
import torch
from torch import nn

from openjanus.sequence import Kind
from openjanus.training import memory
from openjanus.training.janus import JanusTraining, janus_loss, janus_training
from openjanus.training.memory import cross_entropy, num_outputs
from openjanus.training.stage import Stage
from tests import tiny


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("max_logits", [48, 5 * 48, 1 << 20])
def test_chunks_of_logits_give_the_same_loss_and_gradients(max_logits, monkeypatch) -> None:
    head, hidden, ids = (
        nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 48)),
        torch.randn(17, 6),
        torch.arange(17),
    )
    expected = nn.functional.cross_entropy(head(hidden), ids, reduction="sum")
    wanted = gradients(head, expected)
    seen = []
    head.register_forward_hook(lambda module, given, y: seen.append(len(y)))
    monkeypatch.setattr(memory, "MAX_LOGITS", max_logits)
    loss = cross_entropy(head, hidden, ids)
    torch.testing.assert_close(loss, expected)
    found = gradients(head, loss)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient)
    assert max(seen) * 48 <= max(max_logits, 48) or max_logits == 1 << 20


def test_a_head_says_how_many_ids_it_predicts() -> None:
    model = tiny.janus()
    assert num_outputs(model.heads[Kind.TEXT]) == tiny.LANGUAGE_MODEL.vocab_size
    assert num_outputs(model.heads[Kind.GENERATE]) == tiny.IMAGE_TOKENIZER.num_ids


def test_recomputed_layers_give_the_same_gradients_and_keep_less() -> None:
    found, kept = [], []
    for recompute in (False, True):
        training = janus_training(JanusTraining("", row_tokens=192, recompute=recompute), 0, tiny.checkpoint())
        model = training.model.train().requires_grad_(True)
        (batch,) = training.data(Stage("s", 1, 1e-3, {"emoji.questions": 2, "emoji.drawings": 2}), 0)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            loss, _ = janus_loss(model, batch, 0)
        found.append(gradients(model, loss))
        kept.append(sum(sizes))
    assert found[0].keys() == found[1].keys() and kept[1] < 0.7 * kept[0]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}")
