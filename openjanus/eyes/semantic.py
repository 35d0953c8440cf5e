"""The semantic loss of an image tokenizer: its codes, read by a causal decoder, should say what SigLIP sees.

    loss = weight * mean over the places of (1 - cosine of the predicted and the teacher's feature)

Sources: arXiv 2410.13848, Appendix A (weight 0.25, SigLIP-Large as the teacher); BEiT v2 for the form (arXiv
2208.06366, §2.2). The teacher's features are those after its last norm, which Janus feeds to its adaptor.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from openjanus.model.image_tokenizer import ImageTokenizerConfig
from openjanus.model.semantic_tokenizer import SemanticDecoderConfig
from openjanus.model.vision_encoder import VisionEncoder, VisionEncoderConfig
from openjanus.starting.parts import ENCODER, read_part


class Teacher:
    """A frozen semantic encoder. It is no part of the model that is trained.

    Raises ValueError if `source` (starting/parts.py) has no SigLIP encoder, or one whose features do not fit.
    """

    def __init__(self, source: str, tokenizer: ImageTokenizerConfig, decoder: SemanticDecoderConfig):
        part = read_part(ENCODER, source, tokenizer.image_size_px)
        if not isinstance(part.config, VisionEncoderConfig):
            raise ValueError(f"teacher {source}: it is no SigLIP encoder, which takes the pixels of a tokenizer")
        found = part.config.num_features, part.config.width
        wanted = tokenizer.num_image_ids, decoder.feature_width
        if found != wanted:
            raise ValueError(
                f"teacher {source}: it gives {found[0]} features of width {found[1]}, expected {wanted[0]} of width "
                f"{wanted[1]}: one for each image id, as wide as semantic.feature_width"
            )
        with torch.random.fork_rng(devices=[]):  # the model's own initial values do not depend on the teacher
            self.encoder = VisionEncoder(part.config)
        part.fill(self.encoder)
        self.encoder.requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels [M, 3, H, W] in [-1, 1] -> features [M, N, F]."""
        self.encoder.to(pixels.device)
        side = self.encoder.config.image_size_px
        if pixels.shape[-1] != side:
            pixels = F.interpolate(pixels, (side, side), mode="bicubic", antialias=True)
        return self.encoder(pixels)


def semantic_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - cosine of features [M, N, F], the mean over all places; float32."""
    return 1 - F.cosine_similarity(predicted.float(), target.float(), dim=-1).mean()
