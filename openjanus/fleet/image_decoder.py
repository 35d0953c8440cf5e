"""Decodes image ids to pictures outside vLLM's engine. It loads only the image tokenizer of a checkpoint."""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from openjanus.processing.image import to_images
from openjanus.processing.processor import Processor
from openjanus.runtime import Runtime
from openjanus.serve.drawing import Canvas
from openjanus.weights.checkpoint import load
from openjanus.weights.hub import find_checkpoint


@dataclass(frozen=True)
class ImageDecoder:
    canvas: Canvas
    processor: Processor

    @classmethod
    def load(
        cls, source: str, revision: str | None, device: str, guidance: float, strict_sizes: bool = False
    ) -> "ImageDecoder":
        """guidance: the server's default scale."""
        target = Runtime.choose(device, "float32").device
        checkpoint = load(find_checkpoint(source, revision), target, torch.float32, only="generation.tokenizer.")
        eye, c = checkpoint.model.generation, checkpoint.model.config.generation

        @torch.inference_mode()
        def decode(image_ids: Tensor) -> list[Image.Image]:
            return to_images(eye.decode(image_ids.to(device)))

        canvas = Canvas(
            (c.image_size_px,), c.num_image_ids, {**checkpoint.sampling, "guidance": guidance}, decode, strict_sizes
        )
        return cls(canvas, checkpoint.processor)
