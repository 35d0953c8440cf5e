"""Janus: two eyes, one causal body, two heads (arXiv 2410.13848, Figure 2).

      text ─────────────► embedding ─┐                       ┌─ text head ──► next text id
      image ─► understanding eye ────┼─► one causal body ────┤
      image ids ─► generation eye ───┘                       └─ image head ─► next image id

`embed` asks of each position only which eye it belongs to (`Batch.kind`); `forward` is the body; the caller applies the
two heads where they are needed: at supervised positions in training, at the last position in decoding.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from openjanus.config import Config, PositiveInt
from openjanus.model.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from openjanus.model.language_model import LanguageModel, LanguageModelConfig
from openjanus.model.vision_encoder import VisionEncoder, VisionEncoderConfig
from openjanus.sequence import Batch, Kind


@dataclass(frozen=True)
class JanusConfig(Config):
    language_model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    vision_encoder: VisionEncoderConfig = field(default_factory=VisionEncoderConfig)
    image_tokenizer: ImageTokenizerConfig = field(default_factory=ImageTokenizerConfig)
    image_head_width: PositiveInt = 2048


class Adaptor(nn.Module):
    """Two linear layers with GELU between, from an eye's width to the body's (`mlp_gelu`, depth 2)."""

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.up = nn.Linear(width_in, width)
        self.gelu: nn.Module = nn.GELU()
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gelu(self.up(x)))


class ImageHead(nn.Module):
    """Hidden states -> logits over the codebook: linear, GELU, linear (J `vision_head`)."""

    def __init__(self, width: int, head_width: int, num_ids: int):
        super().__init__()
        self.up = nn.Linear(width, head_width)
        self.gelu: nn.Module = nn.GELU()
        self.out = nn.Linear(head_width, num_ids)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.out(self.gelu(self.up(hidden)))


class Understanding(nn.Module):
    """Pixels [M, 3, H, W] -> embeddings [M, N, D]."""

    def __init__(self, c: JanusConfig):
        super().__init__()
        self.encoder = VisionEncoder(c.vision_encoder)
        self.adaptor = Adaptor(c.vision_encoder.width, c.language_model.width)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.adaptor(self.encoder(pixels))


class Generation(nn.Module):
    """Image ids [...] -> embeddings [..., D]; `head` predicts ids, `tokenizer` turns them into pixels and back.

    `embedding` is a table of its own beside the tokenizer's codebook (as in the official checkpoints); it starts as a
    copy of the codebook, see `initialise_from_codebook`.
    """

    def __init__(self, c: JanusConfig):
        super().__init__()
        t, width = c.image_tokenizer, c.language_model.width
        self.tokenizer = ImageTokenizer(t)
        self.embedding = nn.Embedding(t.num_ids, t.code_width)
        self.adaptor = Adaptor(t.code_width, width)
        self.head = ImageHead(width, c.image_head_width, t.num_ids)

    def initialise_from_codebook(self) -> None:
        """The paper feeds the adaptor with "codebook embeddings" (§3.1): start there. Call it after loading a
        tokenizer."""
        with torch.no_grad():
            self.embedding.weight.copy_(self.tokenizer.codes())

    def forward(self, image_ids: Tensor) -> Tensor:
        return self.adaptor(self.embedding(image_ids))


class Janus(nn.Module):
    """The whole model. No sampling, loss or file access here."""

    def __init__(self, c: JanusConfig):
        super().__init__()
        self.config = c
        self.language_model = LanguageModel(c.language_model)
        self.understanding = Understanding(c)
        self.generation = Generation(c)
        self.initialise()

    def initialise(self) -> None:
        """Adaptors and image head as Llama's matrices, Normal(0, 0.02); the eyes initialise themselves."""
        for part in (self.understanding.adaptor, self.generation.adaptor, self.generation.head):
            for p in part.parameters():
                nn.init.normal_(p, std=0.02) if p.dim() == 2 else nn.init.zeros_(p)
        if not self.generation.embedding.weight.is_meta:
            self.generation.initialise_from_codebook()

    def embed(self, batch: Batch) -> Tensor:
        """Each position through its eye: [B, T] -> [B, T, D]. Padding becomes text id 0, which nothing attends to.

        Raises ValueError if the pictures' features are not as many as the positions that wait for them.
        """
        is_text = batch.kind == Kind.TEXT
        x = self.language_model.embedding(torch.where(is_text, batch.tokens, 0))
        drawn = batch.kind == Kind.GENERATE
        if drawn.any():
            x = x.masked_scatter(drawn[..., None], self.generation(batch.tokens[drawn]).to(x.dtype))
        seen = batch.kind == Kind.UNDERSTAND
        num_pictures = 0 if batch.pixels is None else len(batch.pixels)
        num_features, num_seen = self.config.vision_encoder.num_features, int(seen.sum())
        if num_pictures * num_features != num_seen:  # masked_scatter would give pictures each other's features
            raise ValueError(
                f"{num_pictures} pictures of {num_features} features each, but {num_seen} positions for them: "
                "num_features of the processor must be the vision encoder's"
            )
        if batch.pixels is not None:
            x = x.masked_scatter(seen[..., None], self.understanding(batch.pixels).to(x.dtype))
        return x

    def embed_next(self, tokens: Tensor, rows: Mapping[Kind, Tensor]) -> Tensor:
        """One id for each row, [B] -> [B, D]; `rows` says which rows hold text ids and which image ids.

        What `embed` does with such a batch, without asking the device which rows are which.
        """
        eyes = {Kind.TEXT: self.language_model.embedding, Kind.GENERATE: self.generation}
        if len(rows) == 1:
            return eyes[next(iter(rows))](tokens)
        x = self.language_model.norm.weight.new_empty(len(tokens), self.config.language_model.width)
        for kind, there in rows.items():
            x[there] = eyes[kind](tokens[there])
        return x

    def forward(self, batch: Batch) -> Tensor:
        """-> hidden [B, T, D] after the body's last norm."""
        return self.language_model(self.embed(batch), batch.position, batch.document)

    def text_logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> [..., vocab_size]"""
        return self.language_model.text_head(hidden)

    def image_logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> [..., num_ids]"""
        return self.generation.head(hidden)
