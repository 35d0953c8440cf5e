"""Janus: eyes, one causal body, heads (arXiv 2410.13848, Figure 2).

      text ─────────────► embedding ─┐                       ┌─ text head ──► next text id
      image ─► understanding eye ────┼─► one causal body ────┤
      image ids ─► generation eye ───┤                       └─ image head ─► next image id
      signals ───► signal eye ───────┘  optional

Which eyes a model has is a matter of its config: the type of `understanding`, `generation` and `signal` selects the
class, by the tables below. `eyes` and `heads` say which part embeds a kind of position, and which predicts it. `embed`
asks no more than where the positions of each kind are (`Inputs.places`); `forward` is the body. The caller applies the
heads where they are needed: at supervised positions in training, at the last position in decoding.
"""

from copy import copy
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from openjanus import model
from openjanus.config import Config, OneOf
from openjanus.model.attention import CacheRows
from openjanus.model.eye import (
    Eye,
    GenerationEye,
    GenerationEyeConfig,
    SignalEye,
    SignalEyeConfig,
    UnderstandingEye,
    UnderstandingEyeConfig,
)
from openjanus.model.language_model import LanguageModel, LanguageModelConfig
from openjanus.model.siglip_eye import SigLIPEye, SigLIPEyeConfig
from openjanus.model.vq_eye import VQEye, VQEyeConfig
from openjanus.sequence import Batch, Embedded, Inputs, Kind

# A config class and the module that it selects, made from the config and the body's width. A new eye is a file in this
# folder and a row here (`model.FILE` imports it), or a row that your own program adds (docs/extending.md).
UNDERSTANDING: dict[type[UnderstandingEyeConfig], Any] = {
    SigLIPEyeConfig: SigLIPEye,
    model.shared_eye.SharedEyeConfig: model.shared_eye.SharedEye,
    model.tower_eye.TowerEyeConfig: model.tower_eye.TowerEye,
}
GENERATION: dict[type[GenerationEyeConfig], Any] = {
    VQEyeConfig: VQEye,
    model.product_eye.ProductEyeConfig: model.product_eye.ProductEye,
    model.semantic_eye.SemanticEyeConfig: model.semantic_eye.SemanticEye,
}
SIGNAL: dict[type[SignalEyeConfig], Any] = {}


@dataclass(frozen=True)
class JanusConfig(Config):
    language_model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    understanding: Annotated[UnderstandingEyeConfig, OneOf(UNDERSTANDING)] = field(default_factory=SigLIPEyeConfig)
    generation: Annotated[GenerationEyeConfig, OneOf(GENERATION)] = field(default_factory=VQEyeConfig)
    signal: Annotated[SignalEyeConfig, OneOf(SIGNAL)] | None = None

    @property
    def num_features(self) -> int:
        """Positions that a picture to understand takes."""
        return self.understanding.num_features(self.generation)

    @property
    def understanding_size_px(self) -> int:
        """Side of the square pictures to understand."""
        return self.understanding.image_size_px(self.generation)


class Janus(nn.Module):
    """The whole model. No sampling, loss or file access here."""

    def __init__(self, c: JanusConfig):
        super().__init__()
        self.config = c
        width = c.language_model.width
        self.language_model = LanguageModel(c.language_model)
        self.understanding: UnderstandingEye = UNDERSTANDING[type(c.understanding)](c.understanding, width)
        self.generation: GenerationEye = GENERATION[type(c.generation)](c.generation, width)
        self.signal: SignalEye | None = SIGNAL[type(c.signal)](c.signal, width) if c.signal else None
        self.understanding.connect(self.generation)
        for eye in self._named_eyes.values():
            eye.initialise()

    @property
    def eyes(self) -> dict[Kind, nn.Module]:
        """What embeds a position of each kind."""
        eyes: dict[Kind, nn.Module] = {
            Kind.TEXT: self.language_model.embedding,
            Kind.UNDERSTAND: self.understanding,
            Kind.GENERATE: self.generation,
        }
        return eyes if self.signal is None else eyes | {Kind.SIGNAL: self.signal}

    @property
    def heads(self) -> dict[Kind, nn.Module]:
        """What predicts an id of each kind: hidden [..., D] -> logits [..., ids]."""
        return {Kind.TEXT: self.language_model.text_head, Kind.GENERATE: self.generation.head}

    def plain(self) -> "Janus":
        """The model as checkpoints store it: itself, or another one with the same parts and outputs."""
        eye = self.generation.plain()
        if eye is self.generation:
            return self
        with torch.device("meta"):
            model = Janus(replace(self.config, generation=eye.config))
        model.language_model, model.signal, model.generation = self.language_model, self.signal, eye
        model.understanding = copy(self.understanding)
        model.understanding.connect(eye)
        return model

    @property
    def _named_eyes(self) -> dict[str, Eye]:
        eyes: dict[str, Eye] = {"understanding": self.understanding, "generation": self.generation}
        return eyes if self.signal is None else eyes | {"signal": self.signal}

    def prefixes(self, which: Literal["heavy", "precise"]) -> tuple[str, ...]:
        """How the names of the parameters begin that belong to such parts of the eyes (model/eye.py)."""
        return tuple(f"{name}.{part}." for name, eye in self._named_eyes.items() for part in getattr(eye, which))

    def stored_name(self, name: str) -> str:
        """The name of a parameter in our checkpoints."""
        part, _, rest = name.partition(".")
        return f"{part}.{self._named_eyes[part].stored_name(rest)}" if part in self._named_eyes else name

    def embed(self, inputs: Inputs) -> Tensor:
        """Each position through the eye of its kind -> [B, T, D]. Padding becomes zeros, which nothing attends to.

        Raises ValueError if the features of pictures or signals are not as many as the positions that wait for them.
        """
        B, T = inputs.tokens.shape
        self._check_counts(inputs)
        parts = {kind: self._look(kind, inputs) for kind in inputs.places}
        if len(parts) == 1:
            (x,) = parts.values()
            if len(x) == B * T:
                return x.view(B, T, -1)
        x = self.language_model.norm.weight.new_zeros(B * T, self.config.language_model.width)
        for kind, places in inputs.places.items():
            x = x.index_copy(0, places, parts[kind].to(x.dtype))
        return x.view(B, T, -1)

    def _look(self, kind: Kind, inputs: Inputs) -> Tensor:
        """All positions of a kind through its eye: [n, D]."""
        eye = self.eyes[kind]
        if kind == Kind.UNDERSTAND:
            return eye(inputs.pixels).flatten(0, 1)
        if kind == Kind.SIGNAL:
            return eye(inputs.signals).flatten(0, 1)
        continued = inputs.continued
        if kind == Kind.GENERATE and continued is not None:
            return eye(continued.image_ids, continued.cache).flatten(0, 1)[continued.place]
        tokens, places = inputs.tokens.flatten(), inputs.places[kind]
        ids = tokens if len(places) == len(tokens) else tokens[places]
        return self.generation.embed_pictures(ids, inputs.drawings) if kind == Kind.GENERATE else eye(ids)

    def _check_counts(self, inputs: Inputs) -> None:
        """Otherwise pictures would get each other's features, and so would signals."""
        num_pictures = 0 if inputs.pixels is None else len(inputs.pixels)
        num_features, num_seen = self.understanding.num_features, len(inputs.places.get(Kind.UNDERSTAND, ()))
        if num_pictures * num_features != num_seen:
            raise ValueError(
                f"{num_pictures} pictures of {num_features} features each, but {num_seen} positions for them: "
                "num_features of the processor must be the understanding eye's"
            )
        if inputs.signals is None:
            return
        if self.config.signal is None:
            raise ValueError(f"{len(inputs.signals)} signals, but the model has no signal eye")
        num_signals, num_positions = len(inputs.signals), self.config.signal.num_positions
        num_waiting = len(inputs.places.get(Kind.SIGNAL, ()))
        if num_signals * num_positions != num_waiting:
            raise ValueError(
                f"{num_signals} signals of {num_positions} positions each, but {num_waiting} positions for them: "
                "num_positions of a SignalSpan must be the signal eye's"
            )

    def forward(self, inputs: Inputs | Embedded, cache: CacheRows | None = None) -> Tensor:
        """-> hidden [B, T, D] after the body's last norm.

        Without a cache, `inputs` is a batch and attention stays inside its documents; with one, the inputs continue the
        cache's rows.
        """
        x = inputs.x if isinstance(inputs, Embedded) else self.embed(inputs)
        document = inputs.document if isinstance(inputs, Batch) else None
        return self.language_model(x, inputs.position, document, cache)
