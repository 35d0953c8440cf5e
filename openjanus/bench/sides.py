"""The measured code of openjanus and of the peer: the parts of a drawing and of an answer.

Both start a request (prefill), continue it by some steps at a given cache length, and decode ids to pixels. Speed does
not depend on the contents of the cache, so neither side computes the positions that it skips.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from openjanus.bench.shapes import SHAPES, empty_checkpoint, random_checkpoint
from openjanus.inference.engine import Engine
from openjanus.inference.sampling import Sampler, SamplingOptions
from openjanus.inference.scheduler import Request, Scheduler
from openjanus.runtime import DTYPES
from openjanus.sequence import Document, Kind, TextSpan, UnderstandSpan, num_tokens
from openjanus.source import ModelSource
from openjanus.weights import checkpoint as checkpoints
from openjanus.weights import transformers_format

NUM_PROMPT = 60  # text positions of a prompt
UNTIMED_STEPS = 6  # two before each of the three lengths of the cache


@dataclass(frozen=True)
class Case:
    """One measurement: `num_rows` sequences of one kind. source.model is "" for random weights of `shape`."""

    kind: Kind
    shape: str
    source: ModelSource
    n: int
    guidance: float

    @property
    def num_rows(self) -> int:
        return self.n * (2 if self.kind == Kind.GENERATE and self.guidance != 1 else 1)


class Side(Protocol):
    """One loaded implementation."""

    device: torch.device

    def prefill(self) -> int:
        """Starts a new request; returns the positions of its prompt."""

    def fill(self, length: int, num: int) -> None:
        """Sets the cache length without computing the positions, and prepares `num` steps from there."""

    def steps(self, num: int) -> None:
        """Continues the request by `num` steps."""

    def decode(self) -> None:
        """Decodes image ids of n pictures to pixels."""


class Ours:
    """openjanus: the engine's own loop."""

    def __init__(self, case: Case):
        self.case = case
        runtime = case.source.runtime()
        random = None if case.source.model else Engine(random_checkpoint(SHAPES[case.shape], runtime))
        engine = random or case.source.load(runtime)
        self.model, self.device = engine.model, runtime.device

    def _request(self) -> Request:
        config, case = self.model.config, self.case
        if case.kind == Kind.TEXT:
            options, documents, scales = SamplingOptions(temperature=0.0), [self._question()], []
        else:
            options = SamplingOptions(guidance=case.guidance, n=case.n)
            scales = [case.guidance] if case.guidance != 1 else []
            documents = [[TextSpan(range(1, NUM_PROMPT + 1))]] * (len(scales) + 1)
        num_new = config.generation.num_image_ids + UNTIMED_STEPS
        return Request(documents, case.kind, num_new, Sampler(options, range(options.n)), scales=scales)

    def _question(self) -> Document:
        c = self.model.config
        return [
            TextSpan(range(1, 17)),
            UnderstandSpan(torch.zeros(3, c.understanding_size_px, c.understanding_size_px), c.num_features),
            TextSpan(range(1, 18)),
        ]

    def prefill(self) -> int:
        request = self._request()
        self.scheduler = Scheduler(self.model, request.num_rows, request.num_positions + 1)
        self.scheduler.submit(request)
        while not request.ids:  # in chunks
            self.scheduler.step()
        synchronise(self.device)
        return num_tokens(request.documents[0])

    def fill(self, length: int, num: int) -> None:
        if self.device.type == "cuda":  # graphs are recorded before the steps that are timed
            for at in (length + num - 1, length):
                self.scheduler.skip_to(at)
                self.scheduler.step()
        self.scheduler.skip_to(length)
        synchronise(self.device)

    def steps(self, num: int) -> None:
        for _ in range(num):
            self.scheduler.step()
        synchronise(self.device)

    @torch.inference_mode()
    def decode(self) -> None:
        ids = torch.zeros(self.case.n, self.num_ids(), dtype=torch.int64, device=self.device)
        self.model.generation.decode(ids)
        synchronise(self.device)

    def num_ids(self) -> int:
        """Ids of one picture."""
        return self.model.config.generation.num_image_ids

    def bytes_per_step(self, length: int) -> int:
        """Bytes that a step must read: the body, its head, its input adaptor, and the cache."""
        parts = [self.model.language_model.layers, self.model.language_model.norm, self.model.heads[self.case.kind]]
        if self.case.kind == Kind.GENERATE:
            left_out = ("tokenizer", "embedding", "head")  # a step reads one row of the embedding for each picture
            parts += [part for name, part in self.model.generation.named_children() if name not in left_out]
        weights = sum(t.nbytes for part in parts for t in part.state_dict().values())
        return weights + self.case.num_rows * length * self.model.language_model.make_cache(1, 1).num_bytes


class Transformers:
    """transformers' JanusForConditionalGeneration. Its steps compute the same as its `generate`, but with the dynamic
    cache, which is faster on a CPU than the static one of `generate`."""

    model: Any

    def __init__(self, case: Case):
        try:
            from transformers import JanusForConditionalGeneration
        except ImportError as error:
            raise ValueError(f"the peer is not installed ({error}): pip install 'transformers>=5.20'") from None
        self.case = case
        runtime = case.source.runtime()
        self.device, self.dtype = runtime.device, DTYPES[runtime.weights]
        with tempfile.TemporaryDirectory() as folder:
            if case.source.model:
                kept = case.source.checkpoint(self.dtype)
                checkpoints.save(kept, Path(folder) / "model", form="transformers")
                self.model = JanusForConditionalGeneration.from_pretrained(Path(folder) / "model", dtype=self.dtype)
            else:
                self.model = self._random(Path(folder))
        self.model.eval().requires_grad_(False).to(self.device)

    def _random(self, folder: Path) -> Any:
        from transformers import JanusConfig, JanusForConditionalGeneration

        like = empty_checkpoint(SHAPES[self.case.shape])
        transformers_format.write_config(like.config, like.processor.text, folder)
        config = JanusConfig.from_pretrained(folder)
        with self.device:
            return JanusForConditionalGeneration._from_config(config, dtype=self.dtype)

    @torch.inference_mode()
    def prefill(self) -> int:
        from transformers import DynamicCache

        model, rows = self.model.model, self.case.num_rows
        ids = torch.arange(1, NUM_PROMPT + 1, device=self.device).expand(rows, -1)
        x = model.language_model.embed_tokens(ids)
        if self.case.kind == Kind.TEXT:
            side = self.model.config.vision_config.image_size
            pixels = torch.zeros(1, 3, side, side, dtype=self.dtype, device=self.device)
            seen = model.get_image_features(pixels).pooler_output.view(1, -1, x.shape[-1])
            x = torch.cat((x[:, :16], seen, x[:, :17]), dim=1)
        self.cache = DynamicCache()
        hidden = model.language_model(inputs_embeds=x, past_key_values=self.cache).last_hidden_state[:, -1]
        self.next = self._choose(hidden)
        synchronise(self.device)
        return x.shape[1]

    def _choose(self, hidden: Tensor) -> Tensor:
        """hidden [rows, D] -> embeddings [rows, 1, D] of the next ids, as in `generate`."""
        if self.case.kind == Kind.TEXT:
            return self.model.model.language_model.embed_tokens(self.model.lm_head(hidden).argmax(-1))[:, None]
        logits = self.model.model.generation_head(hidden)
        if self.case.guidance != 1:
            conditional, unconditional = logits.chunk(2)
            logits = unconditional + self.case.guidance * (conditional - unconditional)
        ids = torch.multinomial(torch.softmax(logits, dim=-1), num_samples=1)
        return self.model.prepare_embeddings_for_image_generation(ids.repeat(self.case.num_rows // len(ids), 1))

    def fill(self, length: int, num: int) -> None:
        from transformers import DynamicCache

        c, self.cache = self.model.config.text_config, DynamicCache()
        shape = (
            self.case.num_rows,
            c.num_key_value_heads,
            length,
            c.head_dim or c.hidden_size // c.num_attention_heads,
        )
        for layer in range(c.num_hidden_layers):
            part = torch.full(shape, 0.01, dtype=self.dtype, device=self.device)
            self.cache.update(part, part.clone(), layer)
        synchronise(self.device)

    @torch.inference_mode()
    def steps(self, num: int) -> None:
        for _ in range(num):
            outputs = self.model.model.language_model(inputs_embeds=self.next, past_key_values=self.cache)
            self.next = self._choose(outputs.last_hidden_state[:, -1])
        synchronise(self.device)

    @torch.inference_mode()
    def decode(self) -> None:
        num = self.model.config.vision_config.num_image_tokens
        self.model.decode_image_tokens(torch.zeros(self.case.n, num, dtype=torch.int64, device=self.device))
        synchronise(self.device)


def synchronise(device: torch.device) -> None:
    """Waits until a device has finished its work. A CPU needs no waiting."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
