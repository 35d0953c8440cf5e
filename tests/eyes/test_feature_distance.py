"""The distance between sets of pictures, against its definition."""

import numpy as np
import pytest
import torch

from openjanus.emoji import mini, world
from openjanus.eyes.feature_distance import features_of, kernel_distance


def slow_distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """KID's equation with loops (arXiv 1801.01401, §4)."""

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return (float(a.double() @ b.double()) / len(a) + 1) ** 3

    def within(x: torch.Tensor) -> float:
        return float(np.mean([kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]))

    return within(one) + within(other) - 2 * float(np.mean([kernel(a, b) for a in one for b in other]))


def test_it_is_the_unbiased_estimate_of_the_papers_equation() -> None:
    one, other = torch.randn(7, 12), torch.randn(5, 12) + 0.5
    assert kernel_distance(one, other) == pytest.approx(slow_distance(one, other))
    assert kernel_distance(one, other) == pytest.approx(kernel_distance(other, one))


def test_samples_of_one_distribution_are_near_and_on_both_sides_of_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    near = [kernel_distance(*torch.randn(2, 40, 16, generator=generator)) for _ in range(40)]
    far = kernel_distance(torch.randn(40, 16, generator=generator), torch.randn(40, 16, generator=generator) + 1)
    assert min(near) < 0 < max(near) and far > 5 * max(near)


def test_one_picture_has_no_distance() -> None:
    with pytest.raises(ValueError, match="1 pictures are too few"):
        kernel_distance(torch.randn(1, 4), torch.randn(3, 4))


def test_spoilt_pictures_are_farther_than_true_ones() -> None:
    true = [mini.pictures("seen", 0)(i) for i in range(24)]
    more = [mini.pictures("seen", 1)(i) for i in range(24)]
    noise = [np.random.default_rng(i).integers(0, 255, true[0].shape, dtype=np.uint8) for i in range(24)]
    world_at_large = [world.render(world.sample_scene("seen", 1, i)) for i in range(24)]
    features = features_of(true)
    assert features.shape == (24, 1280)
    near, wider, far = (kernel_distance(features, features_of(other)) for other in (more, world_at_large, noise))
    assert near < wider < far
