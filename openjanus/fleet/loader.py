"""Weights of a folder in any of the three formats, read by `weights/` (`--load-format openjanus`)."""

from torch import Tensor, nn
from vllm.config import ModelConfig
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

from openjanus.weights.checkpoint import load
from openjanus.weights.hub import find_checkpoint


class FleetLoader(BaseModelLoader):
    """As strict as `openjanus.load`: a missing or extra tensor, or one of another shape, is an error that names it."""

    def download_model(self, model_config: ModelConfig) -> None:
        find_checkpoint(model_config.model, model_config.revision)

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        tensors: dict[str, Tensor] = {}

        def keep(_: nn.Module, name: str, tensor: Tensor) -> None:
            if not tensor.is_meta:  # the tied head, which the model itself ties
                tensors[name] = tensor

        load(find_checkpoint(model_config.model, model_config.revision), dtype=None, place=keep)
        model.load_weights(tensors.items())  # type: ignore[operator]
