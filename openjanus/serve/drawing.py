"""A checked request to draw, and its responses, for both engines: `openjanus serve` and vLLM (fleet/endpoint.py).

An engine gives image ids; a `Canvas` has the settings of the checkpoint and decodes the ids to pictures.
"""

import base64
import math
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TypedDict

import torch
from PIL import Image
from torch import Tensor

from openjanus.inference.sampling import SamplingOptions, choose_options
from openjanus.picture_files import png_bytes
from openjanus.processing.image import to_rgb
from openjanus.serve.errors import invalid
from openjanus.serve.limits import Limits
from openjanus.serve.schemas.images import (
    CompletedImage,
    DrawnImage,
    EditsRequest,
    FileFormat,
    ImagesRequest,
    ImagesResponse,
    ImagesUsage,
    InputDetails,
    PartialImage,
)

SIZE = re.compile("[1-9][0-9]{0,4}x[1-9][0-9]{0,4}")


@dataclass(frozen=True)
class Canvas:
    """The drawing settings of a checkpoint. sampling: its defaults. decode: image ids [M, N] -> M pictures.

    strict_sizes: whether another size is an error; else the nearest size is drawn. unknown_words: those of a prompt
    that the model was not taught.
    """

    sizes_px: tuple[int, ...]
    num_image_ids: int
    sampling: dict[str, float]
    decode: Callable[[Tensor], list[Image.Image]]
    strict_sizes: bool = False
    unknown_words: Callable[[str], list[str]] = lambda prompt: []

    @property
    def sizes(self) -> list[str]:
        return [f"{px}x{px}" for px in self.sizes_px]

    def check_size(self, size: str | None) -> None:
        """Raises ApiError for an invalid size or, if sizes are strict, for one that the model does not draw."""
        if size in (None, "auto", *self.sizes):
            return
        if self.strict_sizes or not SIZE.fullmatch(size or ""):
            raise invalid(f"expected auto or {' or '.join(self.sizes)}, which this model draws", "size", "invalid_size")


@dataclass(frozen=True)
class Drawing:
    """A checked request.

    partial_at: numbers of ids after which unfinished pictures are sent. quality: of JPEG and WebP, 0 to 100. by_url:
    whether pictures are sent as data URLs. edits: whether pictures of the user are edited.
    """

    prompt: str
    options: SamplingOptions
    partial_at: tuple[int, ...]
    canvas: Canvas
    format: FileFormat = "png"
    quality: int = 100
    by_url: bool = False
    edits: bool = False

    @classmethod
    def of(cls, body: ImagesRequest, limits: Limits, canvas: Canvas) -> "Drawing":
        """Raises ApiError for a request that this model or this server does not support."""
        n, prompt = body.n or 1, body.prompt.strip()
        if not prompt:
            raise invalid("empty prompt: say what to draw, such as 'two red apples'", "prompt")
        if len(prompt) > limits.max_prompt_chars:
            raise invalid(f"the prompt has {len(prompt):,} characters, at most {limits.max_prompt_chars:,}", "prompt")
        if n > limits.max_n:
            raise invalid(f"n is {n}, at most {limits.max_n} pictures are drawn at once", "n")
        num_pictures = len(body.images) if isinstance(body, EditsRequest) else 0
        if num_pictures > limits.max_pictures:
            raise invalid(
                f"{num_pictures} pictures, at most {limits.max_pictures} are read", "images", "too_many_images"
            )
        canvas.check_size(body.size)
        num_partial, total = body.partial_images or 0, canvas.num_image_ids
        if num_partial > limits.max_partial_images:
            raise invalid(
                f"partial_images is {num_partial}, at most {limits.max_partial_images} are shown", "partial_images"
            )
        marks = {round(total * (i + 1) / (num_partial + 1)) for i in range(num_partial)}
        options = choose_options(
            canvas.sampling,
            n=n,
            seed=secrets.randbelow(2**31) if body.seed is None else body.seed,
            guidance=body.guidance_scale,
            image_guidance=body.image_guidance_scale if isinstance(body, EditsRequest) else None,
            temperature=body.temperature,
            top_k=body.top_k,
            top_p=body.top_p,
        )
        return cls(
            prompt,
            options,
            tuple(sorted(marks - {0, total})),
            canvas,
            body.output_format or "png",
            100 if body.output_compression is None else body.output_compression,
            body.response_format == "url",
            isinstance(body, EditsRequest),
        )

    def check_length(self, num_prompt: int, limits: Limits) -> None:
        """Raises ApiError for a prompt that takes too many positions."""
        limit = limits.max_prompt_tokens
        if num_prompt > limit:
            raise invalid(
                f"the prompt takes {num_prompt} positions, at most {limit}", "prompt", "context_length_exceeded"
            )

    def picture(self, ids: Sequence[int], index: int) -> str:
        """The finished picture `index` of the request, as base64 of its file. Slow: for a thread.

        Pictures are decoded one at a time, so that neither the memory nor a picture's numbers depend on n.
        """
        (image,) = self.canvas.decode(torch.tensor(ids)[None])
        if self.format == "png":
            return base64.b64encode(png_bytes(image, self.prompt, self.options, index)).decode()
        return self._encoded(image)

    @torch.inference_mode()
    def partial_picture(self, ids: Sequence[int]) -> str:
        """A picture of which these ids are known. The rest is transparent, or white in a JPEG; for the decoder it is
        filled with the last id. Slow: for a thread."""
        total, side_px = self.canvas.num_image_ids, self.canvas.sizes_px[0]
        known = torch.tensor(ids)
        (image,) = self.canvas.decode(torch.cat([known, known[-1:].expand(total - len(known))])[None])
        side = math.isqrt(total)
        drawn = (torch.arange(total) < len(known)).to(torch.uint8).mul(255).view(side, side)
        image.putalpha(Image.fromarray(drawn.numpy()).resize((side_px, side_px), Image.Resampling.NEAREST))
        return self._encoded(to_rgb(image) if self.format == "jpeg" else image)

    def _encoded(self, image: Image.Image) -> str:
        file = BytesIO()
        image.save(file, self.format.upper(), **({} if self.format == "png" else {"quality": self.quality}))
        return base64.b64encode(file.getvalue()).decode()

    def usage(self, num_prompt: int, num_pictures: int, num_seen: int = 0) -> ImagesUsage:
        """num_prompt: positions of the prompt; num_seen: those of them that pictures take."""
        num_drawn = self.canvas.num_image_ids * num_pictures
        return ImagesUsage(
            input_tokens=num_prompt,
            input_tokens_details=InputDetails(text_tokens=num_prompt - num_seen, image_tokens=num_seen),
            output_tokens=num_drawn,
            total_tokens=num_prompt + num_drawn,
        )

    def response(self, pictures: Sequence[str], num_prompt: int, num_seen: int = 0) -> ImagesResponse:
        return ImagesResponse(
            created=int(time.time()),
            data=[
                DrawnImage(url=f"data:image/{self.format};base64,{picture}")
                if self.by_url
                else DrawnImage(b64_json=picture)
                for picture in pictures
            ],
            output_format=self.format,
            size=self.canvas.sizes[0],
            usage=self.usage(num_prompt, len(pictures), num_seen),
            seed=self.options.seed,
            unknown_words=self.canvas.unknown_words(self.prompt) or None,
        )

    def partial_event(self, common: "EventFields", picture: str, index: int, num_ids: int) -> PartialImage:
        """The event of an unfinished picture with `num_ids` known ids."""
        return PartialImage(
            type="image_edit.partial_image" if self.edits else "image_generation.partial_image",
            b64_json=picture,
            background="opaque" if self.format == "jpeg" else "transparent",
            partial_image_index=sum(mark <= num_ids for mark in self.partial_at) - 1,
            image_index=index,
            progress=num_ids / self.canvas.num_image_ids,
            **common,
        )

    def completed_event(
        self, common: "EventFields", picture: str, index: int, num_prompt: int, num_seen: int = 0
    ) -> CompletedImage:
        return CompletedImage(
            type="image_edit.completed" if self.edits else "image_generation.completed",
            b64_json=picture,
            image_index=index,
            usage=self.usage(num_prompt, 1, num_seen),
            unknown_words=self.canvas.unknown_words(self.prompt) or None,
            **common,
        )

    def event_fields(self) -> "EventFields":
        """The common fields of all events of one answer."""
        return {
            "created_at": int(time.time()),
            "size": self.canvas.sizes[0],
            "output_format": self.format,
            "seed": self.options.seed,
        }

    def next_mark(self, shown: int) -> float:
        """The number of ids at which unfinished pictures are sent next; infinity if there is none."""
        return next((mark for mark in self.partial_at if mark > shown), math.inf)


class EventFields(TypedDict):
    created_at: int
    size: str
    output_format: FileFormat
    seed: int


def sse(event: PartialImage | CompletedImage) -> str:
    """A server-sent event."""
    return f"event: {event.type}\ndata: {event.model_dump_json()}\n\n"
