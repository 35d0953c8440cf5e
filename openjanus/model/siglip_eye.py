"""The understanding eye of Janus: SigLIP and an adaptor (arXiv 2410.13848, §3.1).

pixels ─► SigLIP's vision transformer ─► features [M, N, 1024] ─► adaptor ─► embeddings [M, N, D]
"""

from dataclasses import dataclass, field

from torch import Tensor

from openjanus.model.eye import (
    Adaptor,
    GenerationEyeConfig,
    UnderstandingEye,
    UnderstandingEyeConfig,
    initialise_normal,
)
from openjanus.model.vision_encoder import VisionEncoder, VisionEncoderConfig


@dataclass(frozen=True)
class SigLIPEyeConfig(UnderstandingEyeConfig):
    encoder: VisionEncoderConfig = field(default_factory=VisionEncoderConfig)

    def num_features(self, generation: GenerationEyeConfig) -> int:
        return self.encoder.num_features

    def image_size_px(self, generation: GenerationEyeConfig) -> int:
        return self.encoder.image_size_px


class SigLIPEye(UnderstandingEye):
    heavy = ("encoder",)

    def __init__(self, c: SigLIPEyeConfig, width: int):
        super().__init__()
        self.num_features = c.encoder.num_features
        self.encoder = VisionEncoder(c.encoder)
        self.adaptor = Adaptor(c.encoder.width, width)

    def initialise(self) -> None:
        initialise_normal(self.adaptor)  # the encoder has initialised itself

    def forward(self, pixels: Tensor) -> Tensor:
        return self.adaptor(self.encoder(pixels))
