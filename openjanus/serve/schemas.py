"""The API's words: requests and answers of OpenAI's chat completions, images and models, as far as Janus has them.

Nothing of the engine is imported here: whoever serves the same API takes the same file. An unknown field is an error, a
field that we know but cannot honour is accepted at its neutral value alone; fields that change no answer are ignored.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _encodable(text: str) -> str:
    """JSON can hold halves of characters, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a character (a lone surrogate)") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Seed = Annotated[int, Field(ge=0, lt=2**57)]
Temperature = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
TopK = Annotated[int, Field(ge=0, le=2**31)]
Guidance = Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Zero = Annotated[float, Field(ge=0, le=0)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


# Requests


class ImageUrl(Strict):
    """`url`: a data URL of PNG, JPEG, WebP or GIF; http(s) where the operator allows it."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class TextPart(Strict):
    type: Literal["text"]
    text: Text


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(Strict):
    """One turn. Pictures stand in the user's turns; `developer` is another word for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part]
    name: str | None = None
    refusal: None = None


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class TextFormat(Strict):
    type: Literal["text"]


class ChatRequest(Strict):
    """`POST /v1/chat/completions`. Without temperature the answer is the most probable one; without seed it is drawn
    anew each time."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1024)]
    model: str | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    seed: Seed | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    n: Literal[1] | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logprobs: Literal[False] | None = None
    response_format: TextFormat | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None


class ImagesRequest(Strict):
    """`POST /v1/images/generations`. `seed`, `guidance_scale`, `temperature`, `top_k`, `top_p` are ours; what is left
    out is the checkpoint's own, and the seed is drawn anew each time."""

    prompt: Text
    model: str | None = None
    n: Count | None = None
    size: str | None = None
    response_format: Literal["b64_json"] | None = None
    stream: bool | None = False
    partial_images: Annotated[int, Field(ge=0)] | None = None
    seed: Seed | None = None
    guidance_scale: Guidance | None = None
    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: TopP | None = None
    background: Literal["auto", "opaque"] | None = None
    output_format: Literal["png"] | None = None
    quality: Literal["auto", "standard"] | None = None
    user: str | None = None
    safety_identifier: str | None = None


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


class InputDetails(BaseModel):
    image_tokens: int = 0
    text_tokens: int


class ImagesUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    total_tokens: int


class DrawnImage(BaseModel):
    b64_json: str


class ImagesResponse(BaseModel):
    """With `seed`, the same request gives the same pictures again."""

    created: int
    data: list[DrawnImage]
    background: Literal["opaque"] = "opaque"
    output_format: Literal["png"] = "png"
    size: str
    usage: ImagesUsage
    seed: int


class ImageEvent(BaseModel):
    """What both events of a streamed drawing have; `image_index` says which of the n pictures it is."""

    b64_json: str
    created_at: int
    size: str
    quality: Literal["auto"] = "auto"
    output_format: Literal["png"] = "png"
    image_index: int
    seed: int


class PartialImage(ImageEvent):
    """An unfinished picture, transparent where nothing is drawn yet. progress: from 0 to 1."""

    type: Literal["image_generation.partial_image"] = "image_generation.partial_image"
    background: Literal["transparent"] = "transparent"
    partial_image_index: int
    progress: float


class CompletedImage(ImageEvent):
    type: Literal["image_generation.completed"] = "image_generation.completed"
    background: Literal["opaque"] = "opaque"
    usage: ImagesUsage


class DrawingDefaults(BaseModel):
    """What a drawing uses where its request says nothing, and how many pictures it may ask for."""

    guidance_scale: float
    temperature: float
    sizes: list[str]
    max_n: int


class ModelAbout(BaseModel):
    """What the checkpoint's maker says of it; `words`: all that it knows, by kind."""

    description: str
    words: dict[str, list[str]]


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "openjanus"
    drawing: DrawingDefaults
    about: ModelAbout | None = None


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    error: ErrorBody


class Status(BaseModel):
    status: str
