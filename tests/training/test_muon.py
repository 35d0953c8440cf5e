"""Muon against a slow oracle in float64, and beside AdamW in one optimiser."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from openjanus.training.muon import COEFFICIENTS, MOMENTUM, Muon, orthogonalise
from openjanus.training.stage import Stage, make_optimizer

STAGE = Stage("s", 10, 1e-2, {"a": 1}, weight_decay=0.1, muon=("*layers*",), muon_lr=0.05)


def oracle(x: Tensor) -> Tensor:
    """The polynomial on the singular values, by a decomposition: [R, C]."""
    u, s, v = torch.linalg.svd(x.double(), full_matrices=False)
    s = s / (s.norm() + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag(s) @ v


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24)])
def test_newton_schulz_is_a_polynomial_of_the_singular_values(shape) -> None:
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([oracle(each) for each in x])
    torch.testing.assert_close(orthogonalise(x).double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(orthogonalise(x, torch.bfloat16).double(), expected, rtol=0.1, atol=0.05)
    values = torch.linalg.svdvals(orthogonalise(x))
    assert values.min() > 0.6 and values.max() < 1.3


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 16)])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x).tanh()
        return x


def trained(stage: Stage, num_steps: int) -> Model:
    torch.manual_seed(1)
    model = Model()
    optimizer = make_optimizer(stage, dict(model.named_parameters()))
    for step in range(num_steps):
        model(torch.tensor([0, step % 5])).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_steps_equal_the_formula_matrix_by_matrix() -> None:
    torch.manual_seed(1)
    model = Model()
    kept = {name: (p, torch.zeros_like(p)) for name, p in model.named_parameters() if name.endswith("s.0.weight")}
    ((name, (p, momentum)),) = kept.items()
    p = p.detach().double().clone()
    optimizer = make_optimizer(STAGE, dict(model.named_parameters()))
    for step in range(3):
        model(torch.tensor([0, step])).square().sum().backward()
        grad = dict(model.named_parameters())[name].grad
        assert grad is not None
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * grad
        update = oracle((1 - MOMENTUM) * grad + MOMENTUM * momentum)
        lr = 0.05 * math.sqrt(16 / 8)
        p = p * (1 - lr * 0.1) - lr * update
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(dict(model.named_parameters())[name].double(), p, rtol=1e-4, atol=1e-4)


def test_all_but_the_chosen_matrices_are_updated_by_adamw() -> None:
    plain = replace(STAGE, muon=())
    torch.manual_seed(1)
    model, reference = Model(), Model()
    reference.load_state_dict(model.state_dict())
    for each, stage in ((model, STAGE), (reference, plain)):
        optimizer = make_optimizer(stage, dict(each.named_parameters()))
        each(torch.tensor([0, 1])).square().sum().backward()
        optimizer.step()
    for (name, one), (_, other) in zip(model.named_parameters(), reference.named_parameters(), strict=True):
        assert torch.equal(one, other) == (one.dim() == 1 or "layers" not in name), name


def test_without_patterns_it_is_adamw() -> None:
    plain = replace(STAGE, muon=())
    torch.manual_seed(1)
    reference = Model()
    matrices = [p for p in reference.parameters() if p.dim() > 1]
    others = [{"params": [p for p in reference.parameters() if p.dim() <= 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([{"params": matrices}, *others], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(3):
        reference(torch.tensor([0, step % 5])).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    for one, other in zip(trained(plain, 3).parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_a_matrix_without_a_gradient_stays() -> None:
    model = Model()
    optimizer = make_optimizer(STAGE, dict(model.named_parameters()))
    assert isinstance(optimizer, Muon)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"muon pattern 'body\.\*' matches no parameter"):
        make_optimizer(replace(STAGE, muon=("body.*",)), dict(Model().named_parameters()))
