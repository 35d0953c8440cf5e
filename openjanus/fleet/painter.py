"""Image ids to pictures beside vLLM: of a checkpoint's tensors only the image tokenizer's are read."""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from openjanus.processing.image import to_images
from openjanus.processing.processor import Processor
from openjanus.serve.drawing import Canvas
from openjanus.weights.checkpoint import load, place_as
from openjanus.weights.hub import find_checkpoint

TOKENIZER = "generation.tokenizer."


@dataclass(frozen=True)
class Painter:
    canvas: Canvas
    processor: Processor

    @classmethod
    def load(
        cls, source: str, revision: str | None, device: str, guidance: float, strict_sizes: bool = False
    ) -> "Painter":
        """guidance: what the server draws with where a request says nothing."""
        place = place_as(torch.device(device), torch.float32)

        def only_tokenizer(model: nn.Module, name: str, tensor: Tensor) -> None:
            if name.startswith(TOKENIZER):
                place(model, name, tensor)

        kept = load(find_checkpoint(source, revision), place=only_tokenizer)
        tokenizer, c = kept.model.generation.tokenizer, kept.model.config.image_tokenizer

        @torch.inference_mode()
        def decode(image_ids: Tensor) -> list[Image.Image]:
            return to_images(tokenizer.decode(image_ids.to(device)))

        canvas = Canvas(
            (c.image_size_px,), c.num_image_ids, {**kept.sampling, "guidance": guidance}, decode, strict_sizes
        )
        return cls(canvas, kept.processor)
