"""LlamaGen's image tokenizers as published: vq_ds16_c2i.pt, vq_ds16_t2i.pt (FoundationVision/LlamaGen).

The file keeps the tensors under `model`. It has no config: the sizes are derived from the tensors. It is a pickle,
opened with torch's `weights_only` loader, which executes no code.
"""

import re
from pathlib import Path

from openjanus.config import ConfigError
from openjanus.model.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from openjanus.weights import tensors
from openjanus.weights.names import llamagen_names

KEY = "model"
DROPPED = ("quantize.codebook_used",)


def read_config(path: Path, image_size_px: int) -> ImageTokenizerConfig:
    """The config of a file's tokenizer. The file does not determine `image_size_px`, the side of the pictures."""
    shapes = tensors.TensorFiles(path, KEY).shapes
    try:
        num_ids, code_width = shapes["quantize.embedding.weight"]
        base_width = shapes["encoder.conv_in.weight"][0]
        num_levels, num_blocks = (_count(shapes, rf"encoder\.conv_blocks\.{at}") for at in (r"(\d+)", r"0\.res\.(\d+)"))
        widths = [shapes[f"encoder.conv_blocks.{i}.res.0.conv2.weight"][0] for i in range(num_levels)]
        return ImageTokenizerConfig(
            image_size_px=image_size_px,
            base_width=base_width,
            width_multipliers=tuple(width // base_width for width in widths),
            num_res_blocks=num_blocks,
            latent_width=shapes["quant_conv.weight"][1],
            num_ids=num_ids,
            code_width=code_width,
        )
    except (KeyError, ValueError, IndexError) as error:
        if isinstance(error, ConfigError):
            raise ValueError(f"{path}: {error}") from None
        raise ValueError(f"{path}: no image tokenizer of LlamaGen ({error})") from None


def _count(shapes: dict[str, tuple[int, ...]], pattern: str) -> int:
    """One more than the largest number in names of this pattern."""
    return 1 + max(int(found[1]) for name in shapes if (found := re.match(pattern + r"\.", name)))


def fill(tokenizer: ImageTokenizer, path: Path) -> None:
    """Loads the weights of a file into a tokenizer."""
    tensors.fill(tokenizer, tensors.TensorFiles(path, KEY), llamagen_names, DROPPED)
