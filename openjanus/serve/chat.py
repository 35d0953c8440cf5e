"""Chat completions, whole or streamed."""

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from openjanus.serve.answering import Answer, Question, pieces, schema_of
from openjanus.serve.schemas.chat import (
    AnswerMessage,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    Choice,
    ChunkChoice,
    Delta,
    Finish,
    Usage,
)
from openjanus.serve.service import Service


async def whole(service: Service, body: ChatRequest) -> ChatCompletion:
    answer = Answer()
    async with aclosing(pieces(service, _question(body), answer)) as said:
        text = "".join([piece async for piece in said])
    assert answer.finish is not None
    return ChatCompletion(
        id=_id(),
        created=int(time.time()),
        model=body.model or service.name,
        choices=[Choice(message=AnswerMessage(content=text), finish_reason=answer.finish)],
        usage=_usage(answer),
    )


async def events(service: Service, body: ChatRequest) -> AsyncGenerator[str, None]:
    """Server-sent events: the role, pieces of text, the finish reason, usage if asked for, and [DONE]."""
    answer, id, created, model = Answer(), _id(), int(time.time()), body.model or service.name

    def chunk(choices: list[ChunkChoice], **usage: Usage | None) -> str:
        said = ChatChunk(id=id, object="chat.completion.chunk", created=created, model=model, choices=choices, **usage)
        return f"data: {said.model_dump_json(exclude_unset=True)}\n\n"

    def choice(finish: Finish | None = None, **delta: str) -> str:
        return chunk([ChunkChoice(index=0, delta=Delta.model_validate(delta), finish_reason=finish)])

    is_first = True
    async with aclosing(pieces(service, _question(body), answer)) as said:
        async for piece in said:
            if is_first:
                yield choice(role="assistant", content="")
                is_first = False
            yield choice(content=piece)
    if is_first:
        yield choice(role="assistant", content="")
    yield choice(finish=answer.finish)
    if body.stream_options is not None and body.stream_options.include_usage:
        yield chunk([], usage=_usage(answer))
    yield "data: [DONE]\n\n"


def _question(body: ChatRequest) -> Question:
    return Question(
        body.messages,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        seed=body.seed,
        max_new_tokens=body.max_completion_tokens or body.max_tokens,
        stops=[body.stop] if isinstance(body.stop, str) else body.stop or (),
        schema=schema_of(body.response_format),
    )


def _usage(answer: Answer) -> Usage:
    return Usage(
        prompt_tokens=answer.num_prompt_tokens,
        completion_tokens=answer.num_tokens,
        total_tokens=answer.num_prompt_tokens + answer.num_tokens,
    )


def _id() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"
