"""Image generations: a prompt in, n pictures out, whole or as they are drawn."""

import base64
import math
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from openjanus.inference.engine import Engine
from openjanus.inference.picture_files import png_bytes
from openjanus.inference.sampling import SamplingOptions
from openjanus.inference.scheduler import Request
from openjanus.sequence import num_tokens
from openjanus.serve.errors import invalid
from openjanus.serve.log import log_prompt
from openjanus.serve.schemas import (
    CompletedImage,
    DrawnImage,
    ImagesRequest,
    ImagesResponse,
    ImagesUsage,
    InputDetails,
    PartialImage,
)
from openjanus.serve.service import Service
from openjanus.serve.worker import Ticket


@dataclass(frozen=True)
class Drawing:
    """A checked request: its words, its settings, and after how many ids the unfinished pictures are shown."""

    prompt: str
    options: SamplingOptions
    partial_at: tuple[int, ...]

    @classmethod
    def of(cls, service: Service, body: ImagesRequest) -> "Drawing":
        """Raises ApiError for what this model or this server does not draw."""
        limits, n = service.limits, body.n or 1
        prompt = body.prompt.strip()
        if not prompt:
            raise invalid("empty prompt: say what to draw, such as 'two red apples'", "prompt")
        if len(prompt) > limits.max_prompt_chars:
            raise invalid(f"the prompt has {len(prompt):,} characters, at most {limits.max_prompt_chars:,}", "prompt")
        if n > limits.max_n:
            raise invalid(f"n is {n}, at most {limits.max_n} pictures are drawn at once", "n")
        sizes = sizes_of(service.engine)
        if body.size not in (None, "auto", *sizes):
            raise invalid(f"this model draws {' or '.join(sizes)}", "size", "invalid_size")
        num_partial = body.partial_images or 0
        if num_partial > limits.max_partial_images:
            raise invalid(
                f"partial_images is {num_partial}, at most {limits.max_partial_images} are shown", "partial_images"
            )
        total = service.engine.model.config.image_tokenizer.num_image_ids
        marks = {round(total * (i + 1) / (num_partial + 1)) for i in range(num_partial)}
        options = service.engine.options(
            n=n,
            seed=secrets.randbelow(2**31) if body.seed is None else body.seed,
            guidance=body.guidance_scale,
            temperature=body.temperature,
            top_k=body.top_k,
            top_p=body.top_p,
        )
        return cls(prompt, options, tuple(sorted(marks - {0, total})))

    def request(self, service: Service) -> Request:
        """In a thread. Raises ApiError for a prompt that is too long."""
        request = service.engine.drawing(self.prompt, self.options)
        num_prompt, limit = num_tokens(request.documents[0]), service.limits.max_prompt_tokens
        if num_prompt > limit:
            raise invalid(
                f"the prompt takes {num_prompt} positions, at most {limit}", "prompt", "context_length_exceeded"
            )
        return request


def sizes_of(engine: Engine) -> list[str]:
    return [f"{px}x{px}" for px in engine.sizes_px]


async def whole(service: Service, body: ImagesRequest) -> ImagesResponse:
    drawing = Drawing.of(service, body)
    with service.worker.admit() as ticket:
        request = await _begin(service, drawing, ticket)
        while not ticket.is_done:
            await ticket.changed()
        pictures = [
            DrawnImage(b64_json=await _finished(service, drawing, request, index)) for index in range(request.n)
        ]
    return ImagesResponse(
        created=int(time.time()),
        data=pictures,
        size=sizes_of(service.engine)[0],
        usage=_usage(request, request.n),
        seed=drawing.options.seed,
    )


async def events(service: Service, body: ImagesRequest) -> AsyncGenerator[str, None]:
    """Server-sent events: unfinished pictures as they grow, then each finished one.

    Where drawing is faster than showing, unfinished pictures are skipped: the newest is what matters.
    """
    drawing = Drawing.of(service, body)
    common: dict[str, Any] = {
        "created_at": int(time.time()), "size": sizes_of(service.engine)[0], "seed": drawing.options.seed,
    }  # fmt: skip
    shown = 0
    with service.worker.admit() as ticket:
        request = await _begin(service, drawing, ticket)
        while not ticket.is_done:
            await ticket.changed()
            count = ticket.num_ids
            if ticket.is_done or count < next((mark for mark in drawing.partial_at if mark > shown), math.inf):
                continue
            shown, ids = count, request.ids[:count]
            for index in range(request.n):
                yield _event(
                    PartialImage(
                        b64_json=await service.paint(partial(partial_png, service.engine, ids, index)),
                        partial_image_index=sum(mark <= count for mark in drawing.partial_at) - 1,
                        image_index=index,
                        progress=count / request.num_new,
                        **common,
                    )
                )
        for index in range(request.n):
            data = await _finished(service, drawing, request, index)
            yield _event(CompletedImage(b64_json=data, image_index=index, usage=_usage(request, 1), **common))


async def _begin(service: Service, drawing: Drawing, ticket: Ticket) -> Request:
    log_prompt("draw", drawing.prompt)
    request = await service.read(lambda: drawing.request(service))
    service.worker.submit(ticket, request, drawing.partial_at)
    return request


async def _finished(service: Service, drawing: Drawing, request: Request, index: int) -> str:
    """One by one: the memory that decoding needs does not grow with n, nor do a picture's numbers depend on it."""

    def paint() -> str:
        ids = torch.stack([step[index] for step in request.ids])[None]
        (image,) = service.engine.decode_images(ids)
        return base64.b64encode(png_bytes(image, drawing.prompt, drawing.options, index)).decode()

    data = await service.paint(paint)
    service.metrics.images.inc()
    return data


@torch.inference_mode()
def partial_png(engine: Engine, ids: list[Tensor], index: int) -> str:
    """Picture `index` of a request whose ids so far are [n] each, as base64 of a PNG: what is not drawn yet is
    transparent. The decoder sees the last id in its place."""
    total, side_px = engine.model.config.image_tokenizer.num_image_ids, engine.sizes_px[0]
    known = torch.stack([step[index] for step in ids])
    (image,) = engine.decode_images(torch.cat([known, known[-1:].expand(total - len(known))])[None])
    side = math.isqrt(total)
    drawn = (torch.arange(total) < len(known)).to(torch.uint8).mul(255).view(side, side)
    image.putalpha(Image.fromarray(drawn.numpy()).resize((side_px, side_px), Image.Resampling.NEAREST))
    file = BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _usage(request: Request, num_pictures: int) -> ImagesUsage:
    num_prompt, num_drawn = num_tokens(request.documents[0]), request.num_new * num_pictures
    return ImagesUsage(
        input_tokens=num_prompt,
        input_tokens_details=InputDetails(text_tokens=num_prompt),
        output_tokens=num_drawn,
        total_tokens=num_prompt + num_drawn,
    )


def _event(event: PartialImage | CompletedImage) -> str:
    return f"event: {event.type}\ndata: {event.model_dump_json()}\n\n"
