"""The two doors of Janus: `generate` draws, `chat` answers. Both make requests for the same loop (scheduler.py).

    prompt or messages ─► Document ─► Request ─► Scheduler ─► ids ─► pictures, or pieces of text

A drawing decodes image ids and ends after N of them; an answer decodes text ids and ends at the end-of-sentence id.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypedDict, Unpack

import torch
from PIL import Image
from torch import Tensor

from openjanus.inference.body import prepare
from openjanus.inference.quantisation import placer
from openjanus.inference.sampling import Sampler, SamplingOptions, choose_options
from openjanus.inference.scheduler import Request, Scheduler
from openjanus.inference.speculative import Speculation
from openjanus.model.janus import Janus
from openjanus.processing.image import to_images
from openjanus.processing.processor import Conversation, Message
from openjanus.processing.text import TextStream
from openjanus.runtime import Runtime
from openjanus.sequence import Kind, num_tokens
from openjanus.weights import checkpoint as checkpoints
from openjanus.weights.config import Checkpoint
from openjanus.weights.hub import find_checkpoint

Progress = Callable[[int, int], None]  # (steps done, steps in all)
MAX_ROWS = 128  # of the KV cache that one call may use: more pictures wait for these to be finished


def load(
    model: str | Path = "nano",
    device: str | Runtime = "auto",
    weights: str = "auto",
    revision: str | None = None,
    as_configured: bool = False,
    progress: Progress | None = None,
) -> "Engine":
    """An engine for a model: `nano`, a folder in any of the three formats, or a hub id (`owner/name`).

    device: auto (the first of cuda, mps, cpu that is there), or one of them; or a `Runtime`, which also sets weights.
    weights: auto (bfloat16 on CUDA, float32 elsewhere), float32, bfloat16, float16, int8 or int4 (quantisation.py).
    revision: branch, tag or commit of a hub id.
    as_configured: follow the preprocessor file of the first Janus-1.3B even where it is known to be mistaken.

    Raises ValueError naming what is wrong: a folder, file, config value or tensor.
    """
    runtime = device if isinstance(device, Runtime) else Runtime.choose(device, weights)
    folder = find_checkpoint(model, revision)
    checkpoint = checkpoints.load(folder, as_configured=as_configured, progress=progress, place=placer(runtime))
    prepare(checkpoint.model, runtime)
    return Engine(checkpoint)


class Settings(TypedDict, total=False):
    """Keyword settings of a drawing: those of `SamplingOptions`; None stands for the checkpoint's own default."""

    n: int | None
    seed: int | None
    guidance: float | None
    temperature: float | None
    top_k: int | None
    top_p: float | None


class Engine:
    """A checkpoint ready to draw and to answer."""

    def __init__(self, checkpoint: Checkpoint):
        self.model: Janus = checkpoint.model
        self.processor = checkpoint.processor
        self.sampling = checkpoint.sampling

    @property
    def sizes_px(self) -> tuple[int, ...]:
        """Sides of the square pictures that this checkpoint can draw. A Janus has learned one."""
        return (self.model.config.image_tokenizer.image_size_px,)

    def options(self, options: SamplingOptions | None = None, **settings: Unpack[Settings]) -> SamplingOptions:
        """Sampling options: what is given, else `options`, else the checkpoint's own defaults, else the paper's."""
        return choose_options(self.sampling if options is None else asdict(options), **settings)

    def generate(
        self,
        prompts: str | Sequence[str],
        options: SamplingOptions | None = None,
        progress: Progress | None = None,
        speculative: int = 0,
        seeds: Sequence[int] | None = None,
        **settings: Unpack[Settings],
    ) -> list[Image.Image]:
        """Draws n pictures of each prompt, prompt by prompt: prompts * n RGB pictures, `sizes_px` a side.

            engine.generate(["a red apple", "two cats"], n=4, seed=1, guidance=5, temperature=1)

        Settings left out are the checkpoint's own, or the paper's. Picture k of a prompt depends on the prompt, the
        settings and (seed, k) alone, not on what is drawn beside it. `progress(done, total)` is called at every step.
        speculative: ids of a window that is drawn in one pass (inference/speculative.py); 0 draws them one by one. The
        pictures are the same. seeds: one for each prompt, instead of the same for all.
        Raises ValueError for an empty prompt, one that is too long for the model, or a setting out of range.
        """
        return self.decode_images(self.generate_ids(prompts, options, progress, speculative, seeds, **settings))

    def generate_ids(
        self,
        prompts: str | Sequence[str],
        options: SamplingOptions | None = None,
        progress: Progress | None = None,
        speculative: int = 0,
        seeds: Sequence[int] | None = None,
        **settings: Unpack[Settings],
    ) -> Tensor:
        """As `generate`, but gives the image ids: int64 [prompts * n, N], in reading order of each picture."""
        options = self.options(options, **settings)
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts or not all(p.strip() for p in prompts):
            raise ValueError("empty prompt: say what to draw, such as 'two red apples'")
        seeds = [options.seed] * len(prompts) if seeds is None else seeds
        if len(seeds) != len(prompts):
            raise ValueError(f"got {len(seeds)} seeds for {len(prompts)} prompts, expected one for each")
        requests = [self.drawing(p.strip(), replace(options, seed=s)) for p, s in zip(prompts, seeds, strict=True)]
        total = self.model.config.image_tokenizer.num_image_ids
        for _ in self._speculate(requests, speculative) if speculative else self._run(requests):
            if progress is not None:
                progress(sum(len(r.ids) for r in requests) // len(requests), total)
        return torch.cat([torch.stack(request.ids, dim=1) for request in requests])

    def drawing(self, prompt: str, options: SamplingOptions) -> Request:
        """`options.n` pictures of one prompt as a request to a `Scheduler`."""
        document = self.processor.prompt([Message("user", [prompt])], draw=True)
        documents = [document, self.processor.unconditional(document)] if options.guidance != 1 else [document]
        total = self.model.config.image_tokenizer.num_image_ids
        return Request(documents, Kind.GENERATE, total, Sampler(options, range(options.n)))

    def answer(self, messages: Conversation, options: SamplingOptions, max_new_tokens: int) -> Request:
        """The assistant's next answer as a request to a `Scheduler`; it gives up at `max_new_tokens` ids, or at the end
        of the model's positions."""
        document = self.processor.prompt(messages)
        room = self.model.config.language_model.max_positions - num_tokens(document)
        num_new = max(min(max_new_tokens, room), 1)
        sampler = Sampler(replace(options, guidance=1.0, n=1), [0])
        return Request([document], Kind.TEXT, num_new, sampler, self.processor.text.eos_id)

    @torch.inference_mode()
    def decode_images(self, image_ids: Tensor) -> list[Image.Image]:
        """Image ids [M, N] -> M pictures."""
        return to_images(self.model.generation.tokenizer.decode(image_ids))

    def chat(
        self,
        messages: Conversation,
        options: SamplingOptions | None = None,
        max_new_tokens: int = 512,
        **settings: Unpack[Settings],
    ) -> Iterator[str]:
        """Streams the assistant's next answer, piece by piece; the pieces joined are the answer.

            for piece in engine.chat([Message("user", [picture, "what is it?"])]): print(piece, end="")

        Greedy unless a temperature is given. Raises ValueError for a conversation that is too long for the model.
        """
        options = self.options(options or SamplingOptions(temperature=0.0), **settings)
        request = self.answer(messages, options, max_new_tokens)
        stream = TextStream(self.processor.text)
        for _ in self._run([request]):
            if piece := stream.add(int(step) for step in request.ids[len(stream.ids) :]):
                yield piece

    def ask(
        self,
        image: Image.Image | Sequence[Image.Image],
        question: str,
        options: SamplingOptions | None = None,
        max_new_tokens: int = 512,
        **settings: Unpack[Settings],
    ) -> str:
        """The answer to a question about one or several pictures, greedy unless a temperature is given.

        Raises ValueError for an empty question or what is too long for the model.
        """
        if not question.strip():
            raise ValueError("empty question: ask something, such as 'what is it?'")
        images = [image] if isinstance(image, Image.Image) else list(image)
        return "".join(self.chat([Message("user", [*images, question.strip()])], options, max_new_tokens, **settings))

    def scheduler(self, num_rows: int, num_positions: int) -> Scheduler:
        """An empty batch of this model, for requests of `drawing` and `answer`."""
        return Scheduler(self.model, num_rows, num_positions, self._text_logits)

    def _run(self, requests: Sequence[Request]) -> Iterator[None]:
        """Runs requests to their end, together as far as `MAX_ROWS` allows; yields after every step."""
        self._check_room(requests)
        num_rows = min(sum(r.num_rows for r in requests), max(MAX_ROWS, *(r.num_rows for r in requests), 0))
        scheduler = self.scheduler(num_rows, max(r.num_positions for r in requests))
        for request in requests:
            scheduler.submit(request)
        running = True
        while running:
            running = scheduler.step()
            for request in requests:
                if request.error is not None:
                    raise request.error
            yield

    def _speculate(self, requests: Sequence[Request], window: int) -> Iterator[None]:
        """Runs drawings to their end, one request after the other; yields after every pass."""
        self._check_room(requests)
        for request in requests:
            speculation = Speculation(self.model, request, window)
            while not request.finished:
                speculation.step()
                yield

    def _check_room(self, requests: Sequence[Request]) -> None:
        limit = self.model.config.language_model.max_positions
        for request in requests:
            if request.num_positions > limit:
                raise ValueError(
                    f"the prompt takes {num_tokens(request.documents[0])} positions, the answer up to "
                    f"{request.num_new}, but the model has {limit}: shorten it"
                )

    def _text_logits(self, hidden: Tensor) -> Tensor:
        """Text logits without what an answer must not hold: special tokens, and rows that stand for no text."""
        text = self.processor.text
        logits = self.model.text_logits(hidden)
        logits[..., [text.pad_id, text.bos_id, text.begin_of_image_id, text.end_of_image_id]] = float("-inf")
        logits[..., text.vocab_size :] = float("-inf")  # official heads are padded to 102,400 rows
        return logits
