"""`POST /v1/chat/completions`."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from openjanus.serve.schemas.base import (
    Count,
    Ignored,
    Items,
    Seed,
    Strict,
    Temperature,
    Text,
    TopK,
    TopP,
    by_type,
    only,
)

NO_TOOLS = "this model calls no tools"
FORCED_TOOL = (
    f"{NO_TOOLS}: leave tool_choice out, or set it to auto or none; for answers of a given form use a json_schema"
)

# Requests


class ImageUrl(Strict):
    """`url`: a data URL of PNG, JPEG, WebP or GIF; http(s) if the operator allows it."""

    url: str
    detail: Ignored = None


class TextPart(Strict):
    type: Literal["text"]
    text: Text


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[
    Annotated[TextPart, Tag("text")] | Annotated[ImagePart, Tag("image_url")], by_type("text", "image_url")
]


def _text_or_list(value: Any) -> str | None:
    return "text" if isinstance(value, str) else "list" if isinstance(value, list) else None


def text_or(items: str) -> Discriminator:
    """Chooses between a text and a list, so that an error names the kind that was sent."""
    return Discriminator(_text_or_list, "text_or_list", f"expected text or a list of {items}")


Content = Annotated[Annotated[Text, Tag("text")] | Annotated[list[Part], Items, Tag("list")], text_or("parts")]
Stops = Annotated[
    Annotated[Text, Tag("text")] | Annotated[list[Text], Field(max_length=4, fail_fast=True), Tag("list")],
    text_or("texts"),
]


def _known_role(role: Any) -> Any:
    if role in ("tool", "function"):
        raise PydanticCustomError("unsupported", f"{NO_TOOLS}: messages of a tool are not supported")
    return role


class ChatMessage(Strict):
    """One turn. Only the user's turns can have pictures. `developer` is another name for `system`. An assistant's turn
    may have all fields of an answer (`message.model_dump()`)."""

    role: Annotated[Literal["system", "developer", "user", "assistant"], BeforeValidator(_known_role)]
    content: Content = ""
    tool_calls: Annotated[Any, only([], why=f"{NO_TOOLS}: leave tool calls out of the conversation")] = None
    function_call: Annotated[Any, only(why=f"{NO_TOOLS}: leave tool calls out of the conversation")] = None
    name: Ignored = None
    refusal: Ignored = None
    annotations: Ignored = None
    audio: Ignored = None
    reasoning_content: Ignored = None


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Ignored = None


class TextFormat(Strict):
    type: Literal["text"]


class JsonObjectFormat(Strict):
    type: Literal["json_object"]


class JsonSchema(Strict):
    """`json_schema_`: the schema itself, under its name in the API."""

    name: str = ""
    json_schema_: dict[str, Any] = Field(default={"type": "object"}, alias="schema")
    description: Ignored = None
    strict: Ignored = None


class JsonSchemaFormat(Strict):
    type: Literal["json_schema"]
    json_schema: JsonSchema


FORMATS = by_type("text", "json_object", "json_schema")
PlainFormat = Annotated[TextFormat, Tag("text")] | Annotated[JsonObjectFormat, Tag("json_object")]
Format = Annotated[PlainFormat | Annotated[JsonSchemaFormat, Tag("json_schema")], FORMATS]


def no_forced_tool(choice: Any) -> Any:
    if choice not in ("auto", "none"):
        raise PydanticCustomError("unsupported", FORCED_TOOL)
    return choice


class ChatRequest(Strict):
    """Without temperature decoding is greedy; without seed it is random."""

    messages: Annotated[list[ChatMessage], Items, Field(min_length=1)]
    model: str | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    seed: Seed | None = None
    stop: Stops | None = None
    response_format: Format | None = None

    n: Annotated[Any, only(1, why="n is not supported above 1: ask several times")] = None
    frequency_penalty: Annotated[Any, only(0, why="penalties are not supported: leave it out, or set it to 0")] = None
    presence_penalty: Annotated[Any, only(0, why="penalties are not supported: leave it out, or set it to 0")] = None
    logit_bias: Annotated[Any, only({}, why="logit_bias is not supported: leave it out")] = None
    logprobs: Annotated[Any, only(False, why="logprobs are not supported: leave it out")] = None
    top_logprobs: Annotated[Any, only(0, why="logprobs are not supported: leave it out")] = None
    modalities: Annotated[
        Any, only(["text"], why="answers are text: leave it out; POST /v1/images/generations draws")
    ] = None
    audio: Annotated[Any, only(why="audio is not supported: leave it out")] = None
    web_search_options: Annotated[Any, only(why="a search is not supported: leave it out")] = None
    tool_choice: Annotated[Any, AfterValidator(no_forced_tool)] = None
    function_call: Annotated[Any, AfterValidator(no_forced_tool)] = None

    tools: Ignored = None
    functions: Ignored = None
    parallel_tool_calls: Ignored = None
    reasoning_effort: Ignored = None
    verbosity: Ignored = None
    prediction: Ignored = None
    store: Ignored = None
    metadata: Ignored = None
    service_tier: Ignored = None
    user: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    prompt_cache_options: Ignored = None


# Answers

Finish = Literal["stop", "length"]


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    index: int = 0
    message: AnswerMessage
    finish_reason: Finish
    logprobs: None = None


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    index: int = 0
    delta: Delta
    finish_reason: Finish | None = None
    logprobs: None = None


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
