"""One question to the model, whichever endpoint it came by: messages in, text out, piece by piece."""

import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from openjanus.inference.sampling import SamplingOptions
from openjanus.inference.scheduler import Request
from openjanus.processing.text import TextStream
from openjanus.sequence import num_tokens
from openjanus.serve.conversation import check_messages, read_messages, words_of
from openjanus.serve.errors import invalid
from openjanus.serve.log import log_prompt
from openjanus.serve.schemas.chat import ChatMessage, Finish, Format, JsonObjectFormat, JsonSchema, JsonSchemaFormat
from openjanus.serve.service import Service

DEFAULT_NEW_TOKENS = 512


@dataclass(frozen=True)
class Question:
    """What is asked. None stands for a default: the most probable answer, a new seed, 512 tokens, free text.

    max_new_tokens: more than the server gives is as many as it gives. stops: strings that end the answer before them.
    schema: of the JSON that the answer must be.
    """

    messages: Sequence[ChatMessage]
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    max_new_tokens: int | None = None
    stops: Sequence[str] = ()
    schema: dict[str, Any] | None = None


def schema_of(form: Format | JsonSchema | None) -> dict[str, Any] | None:
    """The JSON schema that an answer's format stands for, None for free text."""
    if isinstance(form, JsonSchemaFormat):
        form = form.json_schema
    if isinstance(form, JsonSchema):
        return form.json_schema_
    return {"type": "object"} if isinstance(form, JsonObjectFormat) else None


@dataclass
class Answer:
    """What is known of an answer while it comes. `finish` is None until it is whole."""

    num_prompt_tokens: int = 0
    num_tokens: int = 0
    finish: Finish | None = None


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


async def pieces(service: Service, question: Question, answer: Answer) -> AsyncGenerator[str, None]:
    """The answer's text as it comes; `answer` is filled in on the way. Raises ApiError."""
    check_messages(question.messages, service.limits)
    with service.worker.admit() as ticket:
        log_prompt("chat", " | ".join(map(words_of, question.messages)))
        request = await ticket.during(service.read(lambda: _request(service, question)))
        answer.num_prompt_tokens = num_tokens(request.documents[0])
        service.worker.submit(ticket, request)
        stream, stops = TextStream(service.engine.processor.text), StopStrings(question.stops)
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


def _options(service: Service, q: Question) -> SamplingOptions:
    seed = secrets.randbelow(2**31) if q.seed is None else q.seed
    base = SamplingOptions(temperature=0.0)
    return service.engine.options(base, temperature=q.temperature, top_p=q.top_p, top_k=q.top_k, seed=seed)


def _request(service: Service, question: Question) -> Request:
    """In a thread: pictures are decoded, words become ids. The answer ends where the cache does."""
    config = service.engine.processor.config
    messages = read_messages(question.messages, service.limits, service.fetch, config)
    max_new, options = service.limits.max_new_tokens, _options(service, question)
    try:
        request = service.engine.answer(messages, options, min(question.max_new_tokens or DEFAULT_NEW_TOKENS, max_new))
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
    if question.schema is not None:
        request.sampler = service.grammars.sampler(question.schema, request.sampler.options)
    room = service.worker.scheduler.cache.num_positions - num_prompt + 1
    request.num_new = min(request.num_new, room)
    return request
