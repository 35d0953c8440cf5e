"""The two doors of Janus: `generate` draws, `chat` answers. Both make requests for the same loop (scheduler.py).

    prompt or messages ─► Document ─► Request ─► Scheduler ─► ids ─► pictures, or pieces of text

A drawing decodes image ids and ends after N of them; an answer decodes text ids and ends at the end-of-sentence id.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openjanus.inference.body import prepare
from openjanus.inference.graphs import recording_lock
from openjanus.inference.prompt import (
    Prompt,
    check_editing,
    check_image_ids,
    guidance_rows,
    read_prompt,
    read_prompts,
)
from openjanus.inference.quantisation import placer
from openjanus.inference.request import Request
from openjanus.inference.running import Progress, check_room, finished, run_together, speculate
from openjanus.inference.sampling import MAX_PICTURES, Sampler, SamplingOptions, Settings, choose_options
from openjanus.inference.scheduler import Scheduler
from openjanus.inference.sharing import share_equal_tensors
from openjanus.inference.speculative import check_window
from openjanus.model.janus import Janus
from openjanus.processing.image import Picture, as_image, generation_pixels, to_images
from openjanus.processing.message import Message, as_conversation, show_both_eyes
from openjanus.processing.text import TextStream
from openjanus.processing.words import unknown_words
from openjanus.runtime import Runtime
from openjanus.sequence import Kind, num_tokens
from openjanus.weights import checkpoint as checkpoints
from openjanus.weights.config import Checkpoint
from openjanus.weights.hub import find_checkpoint


def load(
    model: str | Path = "nano",
    device: str | Runtime = "auto",
    weights: str = "auto",
    revision: str | None = None,
    as_configured: bool = False,
    progress: Progress | None = None,
    ignore_config_keys: Sequence[str] = (),
    adapter: str | Path | None = None,
    beside: "Engine | None" = None,
) -> "Engine":
    """An engine for a model: `nano`, a folder in any of the three formats, a finished run, or a hub id (`owner/name`).

    device: auto (the first of cuda, mps, cpu that is there), or one of them; or a `Runtime`, which also sets weights.
    weights: auto (bfloat16 on CUDA, float32 elsewhere), float32, bfloat16, float16, int8 or int4 (quantisation.py).
    revision: branch, tag or commit of a hub id.
    as_configured: follow the preprocessor file of the first Janus-1.3B even where it is known to be mistaken.
    ignore_config_keys: keys of the config files that are left out, such as `vq_config.something`.
    adapter: the folder of an adapter (LoRA, in PEFT's files), which is merged into the model.
    beside: an engine whose tensors are used again where they are equal; several adapters then take little memory.
    Raises ValueError naming what is wrong: a folder, file, config value or tensor.
    """
    runtime = device if isinstance(device, Runtime) else Runtime.choose(device, weights)
    folder = find_checkpoint(model, revision, ignore_config_keys)
    checkpoint = checkpoints.load(
        folder, as_configured=as_configured, progress=progress, place=placer(runtime),
        ignore_config_keys=ignore_config_keys, adapter=adapter,
    )  # fmt: skip
    share_equal_tensors(checkpoint.model, beside)
    prepare(checkpoint.model, runtime)
    return Engine(checkpoint)


class Engine:
    """A checkpoint ready to draw and to answer."""

    def __init__(self, checkpoint: Checkpoint):
        self.model: Janus = checkpoint.model
        self.processor = checkpoint.processor
        self.sampling = checkpoint.sampling
        self.about, self.tasks = checkpoint.about, checkpoint.tasks
        self.device = self.model.language_model.norm.weight.device
        text = self.processor.text
        special = (text.pad_id, text.bos_id, text.begin_of_image_id, text.end_of_image_id)
        self._never_answered = torch.tensor([id for id in special if id is not None], device=self.device)

    @property
    def sizes_px(self) -> tuple[int, ...]:
        """Sides of the square pictures that this checkpoint can draw. A Janus has learned one."""
        return (self.model.config.generation.image_size_px,)

    def options(self, options: SamplingOptions | None = None, **settings: Unpack[Settings]) -> SamplingOptions:
        """Sampling options: what is given, else `options`, else the checkpoint's own defaults, else the paper's."""
        return choose_options(self.sampling if options is None else asdict(options), **settings)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        options: SamplingOptions | None = None,
        progress: Progress | None = None,
        speculative: int = 0,
        first: int = 0,
        seeds: Sequence[int] | None = None,
        **settings: Unpack[Settings],
    ) -> list[Image.Image]:
        """Draws n pictures of each prompt, prompt by prompt: prompts * n RGB pictures, `sizes_px` a side.

            engine.generate(["a red apple", "two cats"], n=4, seed=1, guidance=5, temperature=1)

        prompts: one or a list of them, each as text. A model that was trained to edit also takes a `Message` with
        pictures, or a list of messages (a conversation, itself inside a list).
        Settings left out are the checkpoint's own, or the paper's. Picture k of a prompt depends on the prompt, the
        settings and (seed, k) only, not on what is drawn beside it: `first=k, n=1` draws it alone.
        progress: is called at every step with (steps done, steps in all).
        speculative: ids of a window that is drawn in one pass (inference/speculative.py); 0 draws them one by one. The
        pictures are the same.
        first: number of the first picture of each prompt; the n pictures are those from `first` on.
        seeds: one for each prompt, instead of the same for all.
        Raises ValueError for an empty prompt, one that is too long for the model, or a setting out of range.
        """
        images = dict(self.draw(prompts, options, progress, speculative, first, seeds, **settings))
        return [images[place] for place in range(len(images))]

    def draw(
        self,
        prompts: Prompt | Sequence[Prompt],
        options: SamplingOptions | None = None,
        progress: Progress | None = None,
        speculative: int = 0,
        first: int = 0,
        seeds: Sequence[int] | None = None,
        **settings: Unpack[Settings],
    ) -> Iterator[tuple[int, Image.Image]]:
        """As `generate`, but gives each picture as soon as it is finished, with its place in the list of `generate`.

            for place, image in engine.draw(["a red apple", "two cats"], n=4): image.save(f"{place}.png")

        Pictures are decoded one at a time, so that memory does not grow with their number.
        """
        requests = self._drawings(prompts, self.options(options, **settings), first, seeds)
        if speculative:
            check_window(speculative)
        return self._decoded(self._finished(requests, progress, speculative))

    def edit(
        self,
        image: Picture,
        words: str,
        options: SamplingOptions | None = None,
        progress: Progress | None = None,
        speculative: int = 0,
        first: int = 0,
        **settings: Unpack[Settings],
    ) -> list[Image.Image]:
        """Draws a picture again, changed as the words say: n RGB pictures, `sizes_px` a side.

            engine.edit("apple.png", "make the apple blue", n=4, guidance=2, image_guidance=1.5)

        image: as `ask` takes it; of a picture that is not square, the middle of the long side is edited.
        `guidance` is the scale for the words, `image_guidance` that for the picture. The rest is as in `generate`.
        Raises ValueError for what is no picture, for an empty instruction, and if the model was not trained to edit.
        """
        if not isinstance(words, str) or not words.strip():
            raise ValueError("empty instruction: say what to change, such as 'make the apple blue'")
        prompt = Message("user", [as_image(image), words.strip()])
        return self.generate(prompt, options, progress, speculative, first, **settings)

    def generate_ids(
        self,
        prompts: Prompt | Sequence[Prompt],
        options: SamplingOptions | None = None,
        progress: Progress | None = None,
        speculative: int = 0,
        first: int = 0,
        seeds: Sequence[int] | None = None,
        **settings: Unpack[Settings],
    ) -> Tensor:
        """As `generate`, but gives the image ids: int64 [prompts * n, N], in reading order of each picture."""
        requests = self._drawings(prompts, self.options(options, **settings), first, seeds)
        ids = dict(self._finished(requests, progress, speculative))
        return torch.cat([ids[number] for number in range(len(requests))])

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of a prompt that the model was not taught, if its checkpoint lists its words (words.py)."""
        return unknown_words(prompt, self.about.words) if self.about else []

    def drawing(self, prompt: Prompt, options: SamplingOptions, first: int = 0) -> Request:
        """`options.n` pictures of one prompt, from number `first` on, as a request to a `Scheduler`."""
        stop = first + options.n
        if not 0 <= first < stop <= MAX_PICTURES:
            raise ValueError(f"pictures {first} to {stop - 1}: a seed has the pictures 0 to {MAX_PICTURES - 1}")
        conversation = read_prompt(prompt)
        check_editing(conversation, self.tasks)
        document = self.processor.prompt(show_both_eyes(conversation, self._image_ids), draw=True)
        check_image_ids(document, self.model.config.generation.num_ids)
        documents, scales = guidance_rows(self.processor, document, options)
        total = self.model.config.generation.num_image_ids
        return Request(documents, Kind.GENERATE, total, Sampler(options, range(first, stop)), scales=scales)

    def answer(
        self, messages: Iterable[Message | Mapping[str, Any]], options: SamplingOptions, max_new_tokens: int
    ) -> Request:
        """The assistant's next answer as a request to a `Scheduler`; it gives up at `max_new_tokens` ids, or at the end
        of the model's positions."""
        document = self.processor.prompt(as_conversation(messages))
        check_image_ids(document, self.model.config.generation.num_ids)
        room = self.model.config.language_model.max_positions - num_tokens(document)
        num_new = max(min(max_new_tokens, room), 1)
        sampler = Sampler(replace(options, guidance=1.0, n=1), [0])
        return Request([document], Kind.TEXT, num_new, sampler, self.processor.text.eos_id)

    @torch.inference_mode()
    def _image_ids(self, image: Image.Image) -> np.ndarray:
        """A square picture -> its image ids, int64 [N]. Any thread may call it, beside the one that draws."""
        pixels = generation_pixels(image, self.sizes_px[0])[None]
        with recording_lock:
            return self.model.generation.encode(pixels.to(self.device))[0].cpu().numpy()

    @torch.inference_mode()
    def decode_images(self, image_ids: Tensor) -> list[Image.Image]:
        """Image ids [M, N], on any device -> M pictures. One at a time: neither memory nor a picture's numbers depend
        on M. Any thread may call it, beside the one that draws."""
        images: list[Image.Image] = []
        for ids in image_ids.to(self.device):
            with recording_lock:
                images += to_images(self.model.generation.decode(ids[None]))
        return images

    def chat(
        self,
        messages: Iterable[Message | Mapping[str, Any]],
        options: SamplingOptions | None = None,
        max_new_tokens: int = 512,
        **settings: Unpack[Settings],
    ) -> Iterator[str]:
        """Streams the assistant's next answer, piece by piece; the pieces joined are the answer.

            for piece in engine.chat([Message("user", [picture, "what is it?"])]): print(piece, end="")

        messages: each a `Message`, or a dict in OpenAI's form (processing/message.py).
        Greedy unless a temperature is given. Raises ValueError for what is no conversation, or one that is too long for
        the model.
        """
        options = self.options(options or SamplingOptions(temperature=0.0), **settings)
        request = self.answer(messages, options, max_new_tokens)
        check_room(self.model, [request])
        return self._pieces(request)

    def ask(
        self,
        image: Picture | Sequence[Picture],
        question: str,
        options: SamplingOptions | None = None,
        max_new_tokens: int = 512,
        **settings: Unpack[Settings],
    ) -> str:
        """The answer to a question about one or several pictures, greedy unless a temperature is given.

            engine.ask("cat.png", "what is it?")

        image: the path of a file, a data URL, a PIL image of any mode, or a uint8 array or tensor [H, W, 3]
        (processing/image.py, `as_image`); or a list of them.
        Raises ValueError for what is no picture, an empty question, or what is too long for the model.
        """
        if not isinstance(question, str):
            raise ValueError(f"a question is of type {type(question).__name__}; expected text (str)")
        if not question.strip():
            raise ValueError("empty question: ask something, such as 'what is it?'")
        pictures: Sequence[Any] = image if isinstance(image, (list, tuple)) else [image]
        if not pictures:
            raise ValueError("no picture: expected one or several to ask about")
        images = [as_image(picture) for picture in pictures]
        return "".join(self.chat([Message("user", [*images, question.strip()])], options, max_new_tokens, **settings))

    def answers(
        self,
        conversations: Sequence[Iterable[Message | Mapping[str, Any]]],
        options: SamplingOptions | None = None,
        max_new_tokens: int = 512,
        **settings: Unpack[Settings],
    ) -> list[str]:
        """The next answer of each conversation, all in one batch; each is what `chat` gives, whole.

        Raises ValueError as `chat` does.
        """
        options = self.options(options or SamplingOptions(temperature=0.0), **settings)
        requests = [self.answer(messages, options, max_new_tokens) for messages in conversations]
        if not requests:
            return []
        check_room(self.model, requests)
        for _ in self._run(requests):
            pass
        streams = [TextStream(self.processor.text) for _ in requests]
        return [s.add(request.text_ids) + s.flush() for s, request in zip(streams, requests, strict=True)]

    def scheduler(self, num_rows: int, num_positions: int) -> Scheduler:
        """An empty batch of this model, for requests of `drawing` and `answer`."""
        return Scheduler(self.model, num_rows, num_positions, self._text_logits)

    def _drawings(
        self, prompts: Prompt | Sequence[Prompt], options: SamplingOptions, first: int, seeds: Sequence[int] | None
    ) -> list[Request]:
        """A request for each prompt. Raises ValueError for what is no prompt, or too long."""
        each = read_prompts(prompts)
        seeds = [options.seed] * len(each) if seeds is None else seeds
        if len(seeds) != len(each):
            raise ValueError(f"got {len(seeds)} seeds for {len(each)} prompts, expected one for each")
        requests = [
            self.drawing(prompt, replace(options, seed=seed), first) for prompt, seed in zip(each, seeds, strict=True)
        ]
        check_room(self.model, requests)
        return requests

    def _finished(
        self, requests: Sequence[Request], progress: Progress | None, speculative: int
    ) -> Iterator[tuple[int, Tensor]]:
        """Runs drawings to their end; gives the number of each and its image ids [n, N] as soon as they are whole."""
        steps = speculate(self.model, requests, speculative) if speculative else self._run(requests)
        return finished(steps, requests, self.model.config.generation.num_image_ids, progress)

    def _decoded(self, finished: Iterable[tuple[int, Tensor]]) -> Iterator[tuple[int, Image.Image]]:
        for number, image_ids in finished:
            for k, ids in enumerate(image_ids):
                yield number * len(image_ids) + k, self.decode_images(ids[None])[0]

    def _pieces(self, request: Request) -> Iterator[str]:
        """The text of an answer as it comes."""
        stream = TextStream(self.processor.text)
        for _ in self._run([request]):
            if piece := stream.add(request.text_ids[len(stream.ids) :]):
                yield piece
        if piece := stream.flush():
            yield piece

    def _run(self, requests: Sequence[Request]) -> Iterator[None]:
        return run_together(self.scheduler, requests)

    def _text_logits(self, hidden: Tensor) -> Tensor:
        """Text logits without what an answer must not hold: special tokens, and rows that stand for no text."""
        logits = self.model.heads[Kind.TEXT](hidden)
        logits.index_fill_(-1, self._never_answered, float("-inf"))
        logits[..., self.processor.text.vocab_size :] = float("-inf")  # official heads are padded to 102,400 rows
        return logits
