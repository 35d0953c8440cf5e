"""Stages: the learning rate at each step, what a pattern trains, and what weight decay touches."""

import math

import pytest
import torch
from torch import nn

from openjanus.training.stage import Stage, choose_trainable, make_optimizer


def model() -> nn.Module:
    parts = {
        "eye": nn.Linear(2, 3),
        "adaptor": nn.Linear(3, 3),
        "body": nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)),
    }
    return nn.ModuleDict(parts)


def rates(**settings) -> list[float]:
    stage = Stage("s", lr=2.0, mixture={"a": 1}, **settings)
    return [stage.lr_at(step) for step in range(stage.num_steps)]


def test_constant_after_a_linear_warm_up() -> None:
    assert rates(num_steps=6, warmup_steps=4) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])
    assert rates(num_steps=3) == [2.0, 2.0, 2.0]


def test_cosine_falls_from_the_warm_ups_end_to_zero() -> None:
    found = rates(num_steps=10, warmup_steps=2, schedule="cosine")
    assert found[:2] == pytest.approx([1.0, 2.0])
    assert found[2:] == pytest.approx([1 + math.cos(math.pi * k / 8) for k in range(8)])
    assert Stage("s", 10, 2.0, {"a": 1}, schedule="cosine", warmup_steps=2).lr_at(10) == pytest.approx(0.0)


def test_a_warm_up_longer_than_its_stage_only_rises() -> None:
    assert rates(num_steps=2, warmup_steps=4, schedule="cosine") == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (("*",), {"eye.weight", "eye.bias", "adaptor.weight", "adaptor.bias", "body.0.weight", "body.0.bias",
                  "body.1.weight", "body.1.bias"}),
        (("adaptor.*",), {"adaptor.weight", "adaptor.bias"}),
        (("adaptor.*", "eye.bias"), {"adaptor.weight", "adaptor.bias", "eye.bias"}),
        (("*", "!body.*"), {"eye.weight", "eye.bias", "adaptor.weight", "adaptor.bias"}),
        (("*", "!*", "eye.weight"), {"eye.weight"}),
        (("!eye.*", "eye.bias"), {"eye.bias"}),
        (("*.bias", "!body.*"), {"eye.bias", "adaptor.bias"}),
    ],
)  # fmt: skip
def test_patterns_choose_in_order(patterns, chosen) -> None:
    network = model()
    trainable = choose_trainable(network, patterns)
    assert set(trainable) == chosen
    assert {name for name, p in network.named_parameters() if p.requires_grad} == chosen
    assert all(trainable[name] is network.get_parameter(name) for name in chosen)


def test_a_later_stage_frees_what_an_earlier_one_froze() -> None:
    network = model()
    choose_trainable(network, ("adaptor.*",))
    assert len(choose_trainable(network, ("*",))) == 8
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("pattern", ["adapter.*", "!bodi.*", "EYE.*", ""])
def test_a_pattern_that_matches_nothing_is_named(pattern) -> None:
    with pytest.raises(ValueError, match=f"trainable pattern '{pattern}' matches no parameter; names look like 'eye"):
        choose_trainable(model(), ("*", pattern))


def test_weight_decay_touches_matrices_alone() -> None:
    network, stage = model(), Stage("s", 1, 0.1, {"a": 1}, weight_decay=0.5, betas=(0.8, 0.9))
    trainable = choose_trainable(network, ("*", "!eye.*"))
    optimizer = make_optimizer(stage, trainable)
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for p in trainable.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in network.named_parameters():
        shrunk = 0.95 if p.dim() > 1 and not name.startswith("eye.") else 1.0  # 1 - lr * decay
        torch.testing.assert_close(p.detach(), before[name] * shrunk)


def test_rates_by_pattern_move_each_parameter_by_its_own() -> None:
    """A first step of AdamW moves each number by its rate, whatever its gradient. The last pattern that matches counts,
    in the warm-up, too."""
    network = model()
    stage = Stage(
        "s", 4, 0.1, {"a": 1}, warmup_steps=2, lr_scales={"adaptor.*": 10.0, "*.bias": 0.5, "body.1.bias": 3.0}
    )
    optimizer = make_optimizer(stage, trainable := choose_trainable(network, ("*", "!eye.weight")))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for p in trainable.values():
        p.grad = torch.full_like(p, 7.0)
    for group in optimizer.param_groups:
        group["lr"] = stage.lr_at(0) * group["lr_scale"]
    optimizer.step()
    moved = {name: float((before[name] - p.detach()).mean()) for name, p in network.named_parameters()}
    expected = {"eye.weight": 0, "eye.bias": 0.025, "adaptor.weight": 0.5, "adaptor.bias": 0.025, "body.0.weight": 0.05,
                "body.0.bias": 0.025, "body.1.weight": 0.05, "body.1.bias": 0.15}  # fmt: skip
    assert moved == pytest.approx(expected, abs=1e-5)


def test_a_rate_for_nothing_is_named() -> None:
    stage = Stage("s", 1, 0.1, {"a": 1}, lr_scales={"eye.*": 2.0})
    with pytest.raises(ValueError, match=r"lr_scales pattern 'eye\.\*' matches no parameter"):
        make_optimizer(stage, choose_trainable(model(), ("body.*",)))


def test_muons_rate_is_scaled_as_well() -> None:
    stage = Stage("s", 1, 0.1, {"a": 1}, muon=("body.0.*",), muon_lr=0.02, lr_scales={"body.*": 2.0})
    groups = make_optimizer(stage, choose_trainable(model(), ("body.*", "eye.weight"))).param_groups
    found = {(group["muon"], tuple(p.dim() for p in group["params"])): group["lr_scale"] for group in groups}
    assert found == {(False, (1, 1, 1)): 2.0, (False, (2,)): 1.0, (True, (2,)): pytest.approx(0.4)}
