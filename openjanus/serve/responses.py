"""`/v1/responses`: the same questions and drawings as the other endpoints, in the format of OpenAI's newer API.

    input, kept messages ─► chat messages ─► answering.pieces ─► message          ┐
    image_generation, forced ─► ImagesRequest ─► images ─► image_generation_call  ┴─► response, whole or as events

What a response says is kept for the next one (stored.py), unless the request says otherwise.
"""

import itertools
import json
import secrets
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from openjanus.serve import images
from openjanus.serve.answering import Answer, Question, pieces, schema_of
from openjanus.serve.body import fit
from openjanus.serve.errors import ApiError, invalid
from openjanus.serve.schemas.chat import FORCED_TOOL, ChatMessage, ImagePart, ImageUrl, TextFormat, TextPart
from openjanus.serve.schemas.images import CompletedImage, ImagesRequest, ImagesUsage, PartialImage
from openjanus.serve.schemas.responses import (
    Dropped,
    ImageCall,
    ImageTool,
    Incomplete,
    InputImage,
    InputMessage,
    InputText,
    ItemReference,
    OutputMessage,
    OutputText,
    Progress,
    ResponsesAnswer,
    ResponsesRequest,
    ResponsesUsage,
    TextContent,
)
from openjanus.serve.service import Service
from openjanus.serve.stored import Stored


class Response:
    """One response while it is computed. owner: who may read it later. Raises ApiError if the previous response is not
    stored."""

    def __init__(self, service: Service, body: ResponsesRequest, owner: str):
        self.service, self.body, self.owner = service, body, owner
        self.id, self.created, self.answer = _id("resp"), int(time.time()), Answer()
        self.messages = list(_conversation(service, body, owner))
        tool = body.drawing_tool()
        if tool is None and body.tool_choice not in (None, "auto", "none"):
            raise invalid(FORCED_TOOL, "tool_choice", "unsupported_parameter")
        self.drawing = None if tool is None else _drawing(body, tool, self.messages)
        self.item_id = _id("msg" if self.drawing is None else "ig")

    async def pieces(self) -> AsyncGenerator[str, None]:
        """Streams the text. Raises ApiError."""
        body = self.body
        system = [ChatMessage(role="system", content=body.instructions)] if body.instructions else []
        question = Question(
            [*system, *self.messages],
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            seed=body.seed,
            max_new_tokens=body.max_output_tokens,
            schema=schema_of(body.text_format),
        )
        try:
            async with aclosing(pieces(self.service, question, self.answer)) as said:
                async for piece in said:
                    yield piece
        except ApiError as error:
            error.param = _own_name(error.param)
            raise

    def message(self, text: str | None, status: Progress) -> OutputMessage:
        """The output item of a text; None: without content, since the text has not begun."""
        content = [] if text is None else [TextContent(text=text)]
        return OutputMessage(id=self.item_id, status=status, content=content)

    def state(self, status: Progress = "in_progress", **known: Any) -> ResponsesAnswer:
        """The response with the fields that are known so far."""
        body = self.body
        form = (body.text_format or TextFormat(type="text")).model_dump(by_alias=True, exclude_none=True)
        return ResponsesAnswer(
            id=self.id,
            created_at=self.created,
            status=status,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            metadata=body.metadata or {},
            model=body.model or self.service.name,
            previous_response_id=body.previous_response_id,
            store=body.store is not False,
            temperature=body.temperature,
            text={"format": form},
            tool_choice=body.tool_choice or "auto",
            top_p=body.top_p,
            **known,
        )

    def said(self, text: str) -> ResponsesAnswer:
        """The complete response with a text."""
        answer, is_cut = self.answer, self.answer.finish == "length"
        usage = ResponsesUsage(
            input_tokens=answer.num_prompt_tokens,
            output_tokens=answer.num_tokens,
            total_tokens=answer.num_prompt_tokens + answer.num_tokens,
        )
        status: Progress = "incomplete" if is_cut else "completed"
        details = Incomplete() if is_cut else None
        whole = self.state(status, output=[self.message(text, status)], usage=usage, incomplete_details=details)
        return self._keep(whole, [ChatMessage(role="assistant", content=text)])

    def drawn(self, picture: str, size: str, u: ImagesUsage) -> ResponsesAnswer:
        """The complete response with a picture."""
        assert self.drawing is not None
        form = self.drawing.output_format or "png"
        call = ImageCall(id=self.item_id, status="completed", result=picture, output_format=form, size=size)
        usage = ResponsesUsage(input_tokens=u.input_tokens, output_tokens=u.output_tokens, total_tokens=u.total_tokens)
        return self._keep(self.state("completed", output=[call], usage=usage), [])

    def _keep(self, answer: ResponsesAnswer, said: list[ChatMessage]) -> ResponsesAnswer:
        stored = Stored(self.owner, answer, [*self.messages, *said])
        if answer.store and not self.service.store.fits(stored):
            answer.store = False
        if answer.store:
            self.service.store.put(stored)
        return answer


async def whole(service: Service, body: ResponsesRequest, owner: str) -> ResponsesAnswer:
    response = Response(service, body, owner)
    if response.drawing is not None:
        drawn = await images.whole(service, response.drawing)
        return response.drawn(drawn.data[0].b64_json or "", drawn.size, drawn.usage)
    async with aclosing(response.pieces()) as said:
        text = "".join([piece async for piece in said])
    return response.said(text)


class Events:
    """The events of one stream, numbered."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def __call__(self, type: str, **fields: Any) -> str:
        plain = {name: f.model_dump() if hasattr(f, "model_dump") else f for name, f in fields.items()}
        event = {"type": type, "sequence_number": next(self._numbers), **plain}
        return f"event: {type}\ndata: {json.dumps(event)}\n\n"

    def failure(self, error: ApiError) -> str:
        """The last event of a stream that fails. It has the error twice, as clients read one of the two places."""
        reason = error.body()["error"]
        flat = {"code": reason["code"], "message": reason["message"], "param": reason["param"]}
        return self("error", **flat, error=reason)


async def events(service: Service, body: ResponsesRequest, owner: str, event: Events) -> AsyncGenerator[str, None]:
    """Server-sent events. The first ones come with the first text or picture, so that an earlier error gets its own
    status."""
    response = Response(service, body, owner)
    draw = _drawing_events if response.drawing is not None else _text_events
    async with aclosing(draw(response, event)) as made:
        async for one in made:
            yield one


async def _text_events(response: Response, event: Events) -> AsyncGenerator[str, None]:
    place = {"item_id": response.item_id, "output_index": 0, "content_index": 0}
    text, begun = "", False

    def begin() -> Iterator[str]:
        yield from _begin(response, event, response.message(None, "in_progress"))
        yield event("response.content_part.added", **place, part=TextContent(text=""))

    async with aclosing(response.pieces()) as said:
        async for piece in said:
            for one in () if begun else begin():
                yield one
            begun, text = True, text + piece
            yield event("response.output_text.delta", **place, delta=piece, logprobs=[])
    for one in () if begun else begin():
        yield one
    whole = response.said(text)
    yield event("response.output_text.done", **place, text=text, logprobs=[])
    yield event("response.content_part.done", **place, part=TextContent(text=text))
    yield event("response.output_item.done", output_index=0, item=whole.output[0])
    yield event(f"response.{whole.status}", response=whole)


async def _drawing_events(response: Response, event: Events) -> AsyncGenerator[str, None]:
    assert response.drawing is not None
    place, begun = {"item_id": response.item_id, "output_index": 0}, False
    async with aclosing(images.shown(response.service, response.drawing)) as shown:
        async for picture in shown:
            if not begun:
                begun = True
                for one in _begin(response, event, ImageCall(id=response.item_id, status="in_progress")):
                    yield one
                for step in ("in_progress", "generating"):
                    yield event(f"response.image_generation_call.{step}", **place)
            if isinstance(picture, PartialImage):
                yield event(
                    "response.image_generation_call.partial_image", **place, partial_image_b64=picture.b64_json,
                    partial_image_index=picture.partial_image_index, output_format=picture.output_format,
                    size=picture.size, background=picture.background, quality=picture.quality,
                )  # fmt: skip
    assert isinstance(picture, CompletedImage)
    whole = response.drawn(picture.b64_json, picture.size, picture.usage)
    yield event("response.image_generation_call.completed", **place)
    yield event("response.output_item.done", output_index=0, item=whole.output[0])
    yield event("response.completed", response=whole)


def _begin(response: Response, event: Events, item: OutputMessage | ImageCall) -> Iterator[str]:
    for step in ("created", "in_progress"):
        yield event(f"response.{step}", response=response.state())
    yield event("response.output_item.added", output_index=0, item=item)


def _conversation(service: Service, body: ResponsesRequest, owner: str) -> Iterator[ChatMessage]:
    if body.previous_response_id is not None:
        yield from service.store.get(body.previous_response_id, owner, "previous_response_id").messages
    if isinstance(body.input, str):
        yield ChatMessage(role="user", content=body.input)
        return
    for item in body.input:
        if isinstance(item, InputMessage):
            yield _turn(item)
        elif isinstance(item, ItemReference):
            said = service.store.message(item.id, owner)
            if said is not None:
                yield said
        else:
            assert isinstance(item, Dropped)


def _turn(message: InputMessage) -> ChatMessage:
    if isinstance(message.content, str):
        return ChatMessage(role=message.role, content=message.content)
    parts: list[TextPart | ImagePart] = []
    for part in message.content:
        if isinstance(part, InputImage):
            parts.append(ImagePart(type="image_url", image_url=ImageUrl(url=part.image_url)))
        else:
            text = part.text if isinstance(part, InputText | OutputText) else part.refusal
            parts.append(TextPart(type="text", text=text))
    return ChatMessage(role=message.role, content=parts)


def _drawing(body: ResponsesRequest, tool: Any, messages: list[ChatMessage]) -> ImagesRequest:
    """The request to draw of the last turn. Raises ApiError."""
    try:
        checked = fit(tool, ImageTool)
    except ApiError as error:
        error.param = "tools"
        raise
    last = messages[-1] if messages else ChatMessage(role="user")
    parts = [last.content] if isinstance(last.content, str) else last.content
    if any(isinstance(part, ImagePart) for part in parts):
        raise invalid("this model does not edit pictures: send words only to draw", "input", "unsupported_parameter")
    prompt = "".join(part if isinstance(part, str) else part.text for part in parts if not isinstance(part, ImagePart))
    if last.role != "user" or not prompt.strip():
        raise invalid("the last message must be the user's, and say what to draw", "input")
    settings = checked.model_dump(
        include={"size", "background", "output_format", "output_compression", "partial_images"}, exclude_none=True
    )
    return ImagesRequest(prompt=prompt, seed=body.seed, **settings)


def _own_name(param: str | None) -> str | None:
    """The name of a field in this API: messages are called input."""
    names = {"messages": "input", "response_format": "text.format"}
    return names.get((param or "").partition(".")[0], param)


def _id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(24)}"
