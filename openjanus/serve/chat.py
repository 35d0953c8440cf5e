"""Chat completions: messages in, text out, whole or as it comes."""

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from openjanus.inference.sampling import SamplingOptions
from openjanus.inference.scheduler import Request
from openjanus.processing.text import TextStream
from openjanus.sequence import num_tokens
from openjanus.serve.conversation import check_messages, read_messages, words_of
from openjanus.serve.errors import invalid
from openjanus.serve.log import log_prompt
from openjanus.serve.schemas import (
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

DEFAULT_NEW_TOKENS = 512


@dataclass
class Answer:
    """What is known of an answer while it comes. `finish` is None until it is whole."""

    num_prompt_tokens: int = 0
    num_tokens: int = 0
    finish: Finish | None = None

    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.num_prompt_tokens,
            completion_tokens=self.num_tokens,
            total_tokens=self.num_prompt_tokens + self.num_tokens,
        )


class StopStrings:
    """Ends a text before the first of these strings; what may be the beginning of one is held back."""

    def __init__(self, stops: Sequence[str]):
        self.stops = [stop for stop in stops if stop]
        self.held = ""

    def add(self, piece: str) -> tuple[str, bool]:
        """The text that can be given by now, and whether a stop string was found."""
        text = self.held + piece
        found = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        if found:
            self.held = ""
            return text[: min(found)], True
        longest = max(map(len, self.stops), default=1) - 1
        begun = (n for n in range(min(longest, len(text)), 0, -1) if any(s.startswith(text[-n:]) for s in self.stops))
        cut = len(text) - next(begun, 0)
        self.held = text[cut:]
        return text[:cut], False


async def pieces(service: Service, body: ChatRequest, answer: Answer) -> AsyncGenerator[str, None]:
    """The answer's text as it comes; `answer` is filled in on the way. Raises ApiError."""
    limits = service.limits
    check_messages(body.messages, limits)
    options = _options(service, body)
    max_new = body.max_completion_tokens or body.max_tokens
    if max_new is not None and max_new > limits.max_new_tokens:
        raise invalid(f"max_tokens is {max_new}, at most {limits.max_new_tokens} are given", "max_tokens")
    max_new = max_new or min(DEFAULT_NEW_TOKENS, limits.max_new_tokens)
    with service.worker.admit() as ticket:
        log_prompt("chat", words_of(body.messages))
        request = await service.read(lambda: _request(service, body, options, max_new))
        answer.num_prompt_tokens = num_tokens(request.documents[0])
        service.worker.submit(ticket, request)
        stream = TextStream(service.engine.processor.text)
        stops = StopStrings([body.stop] if isinstance(body.stop, str) else body.stop or [])
        while not ticket.is_done:
            await ticket.changed()
            while answer.num_tokens < len(ticket.tokens):
                id = ticket.tokens[answer.num_tokens]
                answer.num_tokens += 1
                text, stopped = stops.add(stream.add([id]))
                if text:
                    yield text
                if stopped:
                    answer.finish = "stop"
                    return
        text, stopped = stops.add(stream.flush())
        if text := text + stops.held:
            yield text
        answer.finish = "stop" if stopped or ticket.tokens[-1:] == [request.stop_id] else "length"


def _options(service: Service, body: ChatRequest) -> SamplingOptions:
    base = SamplingOptions(temperature=0.0)
    seed = secrets.randbelow(2**31) if body.seed is None else body.seed
    return service.engine.options(base, temperature=body.temperature, top_p=body.top_p, top_k=body.top_k, seed=seed)


def _request(service: Service, body: ChatRequest, options: SamplingOptions, max_new: int) -> Request:
    """In a thread: pictures are decoded, words become ids. The answer ends where the cache does."""
    messages = read_messages(body.messages, service.limits, service.fetch)
    try:
        request = service.engine.answer(messages, options, max_new)
    except ValueError as error:
        raise invalid(str(error), "messages") from None
    num_prompt = num_tokens(request.documents[0])
    num_positions = min(service.worker.scheduler.cache.num_positions, service.limits.max_prompt_tokens)
    if num_prompt > num_positions:
        raise invalid(
            f"the messages take {num_prompt} positions, but there are {num_positions}: shorten them",
            "messages",
            "context_length_exceeded",
        )
    room = service.worker.scheduler.cache.num_positions - num_prompt + 1
    request.num_new = min(request.num_new, room)
    return request


async def whole(service: Service, body: ChatRequest) -> ChatCompletion:
    answer = Answer()
    async with aclosing(pieces(service, body, answer)) as said:
        text = "".join([piece async for piece in said])
    assert answer.finish is not None
    return ChatCompletion(
        id=_id(),
        created=int(time.time()),
        model=service.name,
        choices=[Choice(message=AnswerMessage(content=text), finish_reason=answer.finish)],
        usage=answer.usage(),
    )


async def events(service: Service, body: ChatRequest) -> AsyncGenerator[str, None]:
    """Server-sent events: the role, pieces of text, the finish reason, usage if asked for, and [DONE]."""
    answer, id, created = Answer(), _id(), int(time.time())

    def chunk(choices: list[ChunkChoice], **usage: Usage | None) -> str:
        said = ChatChunk(
            id=id, object="chat.completion.chunk", created=created, model=service.name, choices=choices, **usage
        )
        return f"data: {said.model_dump_json(exclude_unset=True)}\n\n"

    def choice(finish: Finish | None = None, **delta: str) -> str:
        return chunk([ChunkChoice(index=0, delta=Delta.model_validate(delta), finish_reason=finish)])

    is_first = True
    async with aclosing(pieces(service, body, answer)) as said:
        async for piece in said:
            if is_first:
                yield choice(role="assistant", content="")
                is_first = False
            yield choice(content=piece)
    if is_first:
        yield choice(role="assistant", content="")
    yield choice(finish=answer.finish)
    if body.stream_options is not None and body.stream_options.include_usage:
        yield chunk([], usage=answer.usage())
    yield "data: [DONE]\n\n"


def _id() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"
