"""The two doors of Janus: `generate` draws, `chat` answers. Both run the same loop.

    documents ─► collate ─► prefill ─► n x [head at the last position ─► guide ─► sample ─► embed the id ─► body]

A drawing decodes image ids and ends after N of them; an answer decodes text ids and ends at the end-of-sentence id.
Which head is read is a value (`Kind`), not a branch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TypedDict, Unpack

import torch
from PIL import Image
from torch import Tensor

from openjanus.inference.sampling import Sampler, SamplingOptions, guide
from openjanus.model.janus import Janus
from openjanus.processing.image import to_images
from openjanus.processing.processor import Conversation, Message
from openjanus.runtime import Runtime
from openjanus.sequence import Document, Kind, collate, next_batch, num_tokens
from openjanus.weights import checkpoint as checkpoints
from openjanus.weights.config import Checkpoint
from openjanus.weights.hub import find_checkpoint

Progress = Callable[[int, int], None]  # (steps done, steps in all)


def load(
    model: str | Path = "nano",
    device: str | Runtime = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    as_configured: bool = False,
    progress: Progress | None = None,
) -> "Engine":
    """An engine for a model: `nano`, a folder in any of the three formats, or a hub id (`owner/name`).

    device: auto (the first of cuda, mps, cpu that is there), or one of them; or a `Runtime`, which also sets dtype.
    dtype: auto (bfloat16 on CUDA, float32 elsewhere), float32, bfloat16 or float16.
    revision: branch, tag or commit of a hub id.
    as_configured: follow the preprocessor file of the first Janus-1.3B even where it is known to be mistaken.

    Raises ValueError naming what is wrong: a folder, file, config value or tensor.
    """
    runtime = device if isinstance(device, Runtime) else Runtime.choose(device, dtype)
    folder = find_checkpoint(model, revision)
    return Engine(checkpoints.load(folder, runtime.device, runtime.dtype, as_configured, progress))


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
        base = self.sampling if options is None else asdict(options)
        given = {name: value for name, value in settings.items() if value is not None}
        chosen: dict[str, object] = {**base, **given}
        known = {f.name for f in fields(SamplingOptions)}
        unknown = set(chosen) - known
        if unknown:
            raise ValueError(
                f"unknown sampling option {sorted(unknown)[0]!r}, expected one of {', '.join(sorted(known))}"
            )
        for name in ("top_k", "seed", "n"):  # a checkpoint's settings are floats
            if name in chosen and chosen[name] == int(chosen[name]):  # type: ignore[call-overload]
                chosen[name] = int(chosen[name])  # type: ignore[call-overload]
        return SamplingOptions(**chosen)  # type: ignore[arg-type]

    def generate(
        self,
        prompts: str | Sequence[str],
        options: SamplingOptions | None = None,
        progress: Progress | None = None,
        **settings: Unpack[Settings],
    ) -> list[Image.Image]:
        """Draws n pictures of each prompt, prompt by prompt: prompts * n RGB pictures, `sizes_px` a side.

            engine.generate(["a red apple", "two cats"], n=4, seed=1, guidance=5, temperature=1)

        Settings left out are the checkpoint's own, or the paper's. Picture k of a prompt depends on the prompt, the
        settings and (seed, k) alone, not on what is drawn beside it. `progress(done, total)` is called at every step.
        Raises ValueError for an empty prompt, one that is too long for the model, or a setting out of range.
        """
        return self.decode_images(self.generate_ids(prompts, options, progress, **settings))

    def generate_ids(
        self,
        prompts: str | Sequence[str],
        options: SamplingOptions | None = None,
        progress: Progress | None = None,
        **settings: Unpack[Settings],
    ) -> Tensor:
        """As `generate`, but gives the image ids: int64 [prompts * n, N], in reading order of each picture."""
        options = self.options(options, **settings)
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts or not all(p.strip() for p in prompts):
            raise ValueError("empty prompt: say what to draw, such as 'two red apples'")
        documents = [self.processor.prompt([Message("user", [p.strip()])], draw=True) for p in prompts]
        rows = [document for document in documents for _ in range(options.n)]
        sampler = Sampler(options, [k for _ in documents for k in range(options.n)])
        total = self.model.config.image_tokenizer.num_image_ids
        steps = []
        for ids in self._decode(rows, Kind.GENERATE, total, sampler):
            steps.append(ids)
            if progress is not None:
                progress(len(steps), total)
        return torch.stack(steps, dim=1)

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
        document = self.processor.prompt(messages)
        room = self.model.config.language_model.max_positions - num_tokens(document)
        sampler = Sampler(replace(options, guidance=1.0, n=1), [0])
        text, given, ids = self.processor.text, "", []
        for step in self._decode([document], Kind.TEXT, max(min(max_new_tokens, room), 1), sampler):
            ids.append(int(step))
            if ids[-1] == text.eos_id:
                return
            whole = text.decode(ids).removeprefix(" ")
            if not whole.endswith("\ufffd"):  # half of a character: wait for its other bytes
                yield whole[len(given) :]
                given = whole

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

    @torch.inference_mode()
    def _decode(self, rows: list[Document], kind: Kind, num_steps: int, sampler: Sampler) -> Iterator[Tensor]:
        """Yields the next ids [R] of all rows, `num_steps` times: prefill, then one position a step."""
        guided = sampler.options.guidance != 1
        if guided:
            rows = rows + [self.processor.unconditional(document) for document in rows]
        batch = collate(rows).to(self._device)
        B, T = batch.tokens.shape
        limit = self.model.config.language_model.max_positions
        if T + num_steps - 1 > limit:
            raise ValueError(
                f"the prompt takes {T} positions, the answer up to {num_steps}, but the model has {limit}: shorten it"
            )
        cache = self.model.language_model.make_cache(B, T + num_steps)
        position = batch.position[:, -1]
        head = {Kind.TEXT: self._text_logits, Kind.GENERATE: self.model.image_logits}[kind]
        for step in range(num_steps):
            logits = head(self.model(batch, cache)[:, -1])
            ids = sampler.choose(guide(logits, sampler.options.guidance) if guided else logits)
            yield ids
            batch = next_batch(ids.repeat(2) if guided else ids, kind, position + step + 1)

    def _text_logits(self, hidden: Tensor) -> Tensor:
        """Text logits without what an answer must not hold: special tokens, and rows that stand for no text."""
        text = self.processor.text
        logits = self.model.text_logits(hidden)
        logits[..., [text.pad_id, text.bos_id, text.begin_of_image_id, text.end_of_image_id]] = float("-inf")
        logits[..., text.vocab_size :] = float("-inf")  # official heads are padded to 102,400 rows
        return logits

    @property
    def _device(self) -> torch.device:
        return self.model.language_model.norm.weight.device
