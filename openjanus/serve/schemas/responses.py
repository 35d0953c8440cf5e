"""`POST /v1/responses`."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
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
from openjanus.serve.schemas.chat import (
    FORCED_TOOL,
    FORMATS,
    JsonObjectFormat,
    JsonSchema,
    PlainFormat,
    StreamOptions,
    TextFormat,
    text_or,
)
from openjanus.serve.schemas.images import TRANSPARENT, FileFormat

MAX_METADATA = 16

# Requests


class InputText(Strict):
    type: Literal["input_text"]
    text: Text


class InputImage(Strict):
    """`image_url`: as in chat completions."""

    type: Literal["input_image"]
    image_url: str
    file_id: Annotated[Any, only(why="files are not supported: send the picture as image_url")] = None
    detail: Ignored = None


class OutputText(Strict):
    type: Literal["output_text"]
    text: Text
    annotations: Ignored = None
    logprobs: Ignored = None


class Refusal(Strict):
    type: Literal["refusal"]
    refusal: Text


InputPart = Annotated[
    Annotated[InputText, Tag("input_text")]
    | Annotated[InputImage, Tag("input_image")]
    | Annotated[OutputText, Tag("output_text")]
    | Annotated[Refusal, Tag("refusal")],
    by_type("input_text", "input_image", "output_text", "refusal"),
]


class InputMessage(Strict):
    """One turn; an assistant's turn may have all fields of an output item."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Annotated[Text, Tag("text")] | Annotated[list[InputPart], Items, Tag("list")], text_or("parts")]
    id: Ignored = None
    status: Ignored = None
    phase: Ignored = None


class ItemReference(Strict):
    """An output item of an answer that this server keeps."""

    type: Literal["item_reference"]
    id: str


class Dropped(BaseModel):
    """An item that says nothing to the model."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["image_generation_call", "reasoning"]


def _kind(item: Any) -> str | None:
    kind = (item.get("type") or "message") if isinstance(item, dict) else None
    return "dropped" if kind in ("image_generation_call", "reasoning") else kind


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[ItemReference, Tag("item_reference")]
    | Annotated[Dropped, Tag("dropped")],
    Discriminator(
        _kind,
        custom_error_type="item_type",
        custom_error_message="expected an item of type message, item_reference or image_generation_call",
    ),
]


class SchemaFormat(JsonSchema):
    type: Literal["json_schema"]


class TextSettings(Strict):
    format: Annotated[PlainFormat | Annotated[SchemaFormat, Tag("json_schema")], FORMATS] | None = None
    verbosity: Ignored = None


class ImageTool(Strict):
    """`{"type": "image_generation"}`: its settings are those of `POST /v1/images/generations`."""

    type: Literal["image_generation"]
    size: str | None = None
    background: Annotated[Any, only("auto", "opaque", why=TRANSPARENT)] = None
    output_format: FileFormat | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    partial_images: Annotated[int, Field(ge=0)] | None = None
    action: Annotated[Any, only("generate", "auto", why="this model does not edit pictures: leave action out")] = None
    input_image_mask: Annotated[Any, only(why="this model does not edit pictures: leave input_image_mask out")] = None
    input_fidelity: Ignored = None
    model: Ignored = None
    moderation: Ignored = None
    quality: Ignored = None


def _is_drawing(tool: Any) -> bool:
    return isinstance(tool, dict) and tool.get("type") == "image_generation"


def _tool_choice(choice: Any) -> Any:
    if choice not in ("auto", "none", "required") and not _is_drawing(choice):
        raise PydanticCustomError("unsupported", FORCED_TOOL)
    return choice


def _bounded(metadata: Any) -> Any:
    if isinstance(metadata, dict) and len(metadata) > MAX_METADATA:
        raise PydanticCustomError("too_many_fields", f"at most {MAX_METADATA} fields are kept")
    return metadata


NOT_IN_BACKGROUND = "background is not supported: leave it out, or set it to false"
NO_CONVERSATION = "conversations are not kept: use previous_response_id, or send all messages as input"


class ResponsesRequest(Strict):
    """`seed` and `top_k` are ours. `store`: the answer is kept for `previous_response_id`, as long as there is room."""

    input: Annotated[
        Annotated[Text, Tag("text")] | Annotated[list[InputItem], Items, Field(min_length=1), Tag("list")],
        text_or("items"),
    ]
    model: str | None = None
    instructions: Text | None = None
    previous_response_id: str | None = None
    store: bool | None = True
    stream: bool | None = False
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    seed: Seed | None = None
    max_output_tokens: Count | None = None
    text: TextSettings | None = None
    tools: Annotated[list[Any], Items] | None = None
    tool_choice: Annotated[Any, AfterValidator(_tool_choice)] = None
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=512)]], BeforeValidator(_bounded)] | None = None

    background: Annotated[Any, only(False, why=NOT_IN_BACKGROUND)] = None
    conversation: Annotated[Any, only(why=NO_CONVERSATION)] = None
    prompt: Annotated[Any, only(why="stored prompts are not supported: send input")] = None
    top_logprobs: Annotated[Any, only(0, why="logprobs are not supported: leave it out")] = None

    context_management: Ignored = None
    include: Ignored = None
    max_tool_calls: Ignored = None
    moderation: Ignored = None
    parallel_tool_calls: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    reasoning: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    stream_options: StreamOptions | None = None
    truncation: Ignored = None
    user: Ignored = None

    @property
    def text_format(self) -> TextFormat | JsonObjectFormat | SchemaFormat | None:
        return None if self.text is None else self.text.format

    def drawing_tool(self) -> Any:
        """The tool that draws, if the request wants a drawing and no words; else None."""
        tools = self.tools or []
        drawing = next((tool for tool in tools if _is_drawing(tool)), None)
        is_forced = _is_drawing(self.tool_choice) or (self.tool_choice == "required" and all(map(_is_drawing, tools)))
        return drawing if is_forced else None


# Answers


class TextContent(BaseModel):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = []
    logprobs: list[Any] = []


Progress = Literal["in_progress", "completed", "incomplete"]


class OutputMessage(BaseModel):
    id: str
    type: Literal["message"] = "message"
    status: Progress
    role: Literal["assistant"] = "assistant"
    content: list[TextContent]


class ImageCall(BaseModel):
    """`result`: the picture's file as base64, once it is drawn."""

    id: str
    type: Literal["image_generation_call"] = "image_generation_call"
    status: Progress
    result: str | None = None
    output_format: FileFormat = "png"
    size: str | None = None


class CachedTokens(BaseModel):
    cached_tokens: int = 0
    cache_write_tokens: int = 0


class ReasoningTokens(BaseModel):
    reasoning_tokens: int = 0


class ResponsesUsage(BaseModel):
    input_tokens: int
    input_tokens_details: CachedTokens = CachedTokens()
    output_tokens: int
    output_tokens_details: ReasoningTokens = ReasoningTokens()
    total_tokens: int


class Incomplete(BaseModel):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponsesAnswer(BaseModel):
    """With `store`, `id` is what `previous_response_id` takes."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Progress
    error: None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, str]
    model: str
    output: list[OutputMessage | ImageCall] = []
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    store: bool
    temperature: float | None = None
    text: dict[str, Any]
    tool_choice: Any = "auto"
    tools: list[Any] = []
    top_p: float | None = None
    truncation: Literal["disabled"] = "disabled"
    usage: ResponsesUsage | None = None


class Deleted(BaseModel):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True
