"""A distance between two sets of pictures, by features of a network trained on ImageNet.

    pictures ─► EfficientNet-Lite0 ─► mean over places ─► x [n, 1280]
    distance = MMD² with the kernel (x·y / 1280 + 1)³

This is the kernel distance of KID (arXiv 1801.01401, §4) over another network than Inception, whose weights come in a
package. Unlike FID it is unbiased, so a few hundred pictures are enough to compare. It is not comparable with published
FID or KID figures.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openjanus.eyes.perceptual import MEAN, SPREAD, imagenet_network

SIZE_PX = 128  # pictures are enlarged to it: the network halves them five times
BATCH = 64


@lru_cache(maxsize=1)
def _network() -> Any:
    return imagenet_network().eval()


@torch.inference_mode()
def features_of(pictures: Sequence[np.ndarray]) -> Tensor:
    """uint8 pictures [H, W, 3] of one size -> float32 [n, 1280]."""
    network = _network()
    rows = []
    for start in range(0, len(pictures), BATCH):
        batch = torch.from_numpy(np.stack(pictures[start : start + BATCH])).permute(0, 3, 1, 2) / 127.5 - 1
        pixels = F.interpolate(batch, (SIZE_PX, SIZE_PX), mode="bilinear", antialias=True)
        normalised = (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(SPREAD).view(1, 3, 1, 1)
        rows.append(network.extract_features(normalised).mean(dim=(2, 3)))
    return torch.cat(rows)


def kernel_distance(one: Tensor, other: Tensor) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy of features [n, D] and [m, D]. About 0 for two
    samples of the same pictures, and then as often below as above."""
    one, other = one.double(), other.double()
    n, m = len(one), len(other)
    if min(n, m) < 2:
        raise ValueError(f"{min(n, m)} pictures are too few for a distance, expected 2 or more of each")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(k: Tensor) -> Tensor:
        return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))

    return float(within(kernel(one, one)) + within(kernel(other, other)) - 2 * kernel(one, other).mean())
