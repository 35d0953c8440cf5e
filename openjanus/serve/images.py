"""Drawings and edits by the embedded engine: a prompt in, n pictures out, whole or streamed."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

from openjanus.inference.scheduler import Request
from openjanus.processing.message import Message
from openjanus.sequence import TextSpan, num_tokens
from openjanus.serve.conversation import read_picture
from openjanus.serve.drawing import Drawing, sse
from openjanus.serve.errors import invalid
from openjanus.serve.log import log_prompt
from openjanus.serve.schemas.images import CompletedImage, EditsRequest, ImagesRequest, ImagesResponse, PartialImage
from openjanus.serve.service import Service
from openjanus.serve.worker import Ticket

T = TypeVar("T")


async def whole(service: Service, body: ImagesRequest) -> ImagesResponse:
    drawing = Drawing.of(body, service.limits, service.canvas)
    with service.worker.admit() as ticket:
        request = await _begin(service, drawing, body, ticket)
        while not ticket.is_done:
            await ticket.changed()
        drawn = await _whole(service, ticket, partial(request.drawn, request.num_new))
        pictures = [await _finished(service, ticket, drawing, drawn[index], index) for index in range(request.n)]
    return drawing.response(pictures, *_lengths(request))


async def events(service: Service, body: ImagesRequest) -> AsyncGenerator[str, None]:
    """Server-sent events."""
    async with aclosing(shown(service, body)) as pictures:
        async for picture in pictures:
            yield sse(picture)


async def shown(service: Service, body: ImagesRequest) -> AsyncGenerator[PartialImage | CompletedImage, None]:
    """Unfinished pictures while they are drawn, then each finished one.

    If decoding cannot keep up, older unfinished pictures are skipped, and when the drawing is done, all of them.
    """
    drawing = Drawing.of(body, service.limits, service.canvas)
    common, newest = drawing.event_fields(), 0
    with service.worker.admit() as ticket:
        request = await _begin(service, drawing, body, ticket)
        while not ticket.is_done:
            await ticket.changed()
            count = ticket.num_ids
            if ticket.is_done or count < drawing.next_mark(newest):
                continue
            newest = count
            known = await _unfinished(service, ticket, partial(request.drawn, count))
            for index, ids in enumerate(known or ()):
                picture = await _unfinished(service, ticket, partial(drawing.partial_picture, ids))
                if picture is None:
                    break
                yield drawing.partial_event(common, picture, index, count)
        drawn = await _whole(service, ticket, partial(request.drawn, request.num_new))
        for index in range(request.n):
            picture = await _finished(service, ticket, drawing, drawn[index], index)
            yield drawing.completed_event(common, picture, index, *_lengths(request))


async def _begin(service: Service, drawing: Drawing, body: ImagesRequest, ticket: Ticket) -> Request:
    log_prompt("draw", drawing.prompt)

    def prepare() -> Request:
        pictures: list[Any] = [
            read_picture(image.image_url, f"images.{i}", service.limits, service.fetch)
            for i, image in enumerate(body.images if isinstance(body, EditsRequest) else ())
        ]
        request = service.engine.drawing(Message("user", [*pictures, drawing.prompt]), drawing.options)
        drawing.check_length(num_tokens(request.documents[0]), service.limits)
        _check_room(service, request)
        return request

    request = await ticket.during(service.read(prepare))
    service.worker.submit(ticket, request, drawing.partial_at)
    return request


def _lengths(request: Request) -> tuple[int, int]:
    """Positions of the prompt, and those of them that pictures take."""
    prompt = request.documents[0]
    return num_tokens(prompt), num_tokens([span for span in prompt if not isinstance(span, TextSpan)])


def _check_room(service: Service, request: Request) -> None:
    """Raises ApiError for a request that is too large for the cache."""
    cache, rows_each = service.worker.scheduler.cache, len(request.documents)
    if request.num_rows > cache.num_rows:
        max_n = cache.num_rows // rows_each
        guided = " with guidance" if rows_each > 1 else ""
        raise invalid(f"n is {request.n}: at most {max_n} pictures are drawn at once{guided}", "n", "invalid_value")
    if request.num_positions > cache.num_positions:
        max_prompt = cache.num_positions - request.num_new + 1
        num_prompt = num_tokens(request.documents[0])
        raise invalid(
            f"the prompt takes {num_prompt} positions, at most {max_prompt}", "prompt", "context_length_exceeded"
        )


async def _finished(service: Service, ticket: Ticket, drawing: Drawing, ids: list[int], index: int) -> str:
    picture = await _whole(service, ticket, partial(drawing.picture, ids, index))
    service.metrics.images.inc()
    return picture


async def _whole(service: Service, ticket: Ticket, call: Callable[[], T]) -> T:
    return await ticket.during(service.decode_queue.submit(call, is_whole=True).result)


async def _unfinished(service: Service, ticket: Ticket, call: Callable[[], T]) -> T | None:
    """The result of `call`; None if the drawing was done before it began."""
    job = service.decode_queue.submit(call, is_whole=False)
    try:
        await ticket.done_or(job.result)
        return None if ticket.is_done and job.withdraw() else await ticket.during(job.result)
    finally:
        job.withdraw()
