"""`POST /v1/images/generations` and `POST /v1/images/edits`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from openjanus.serve.schemas.base import (
    Count,
    Guidance,
    Ignored,
    Items,
    Seed,
    Strict,
    Temperature,
    Text,
    TopK,
    TopP,
    only,
)

FileFormat = Literal["png", "jpeg", "webp"]
TRANSPARENT = "a transparent background is not supported: leave it out, or set it to auto or opaque"


class ImagesRequest(Strict):
    """`seed`, `guidance_scale`, `temperature`, `top_k` and `top_p` are extensions. Their defaults are the checkpoint's;
    without a seed it is random.

    size: the model draws the nearest size that it has learned. output_compression: 0 to 100, the quality of JPEG and
    WebP.
    """

    prompt: Text
    model: str | None = None
    n: Count | None = None
    size: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    stream: bool | None = False
    partial_images: Annotated[int, Field(ge=0)] | None = None
    seed: Seed | None = None
    guidance_scale: Guidance | None = None
    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: TopP | None = None
    output_format: FileFormat | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    background: Annotated[Any, only("auto", "opaque", why=TRANSPARENT)] = None

    quality: Ignored = None
    style: Ignored = None
    moderation: Ignored = None
    user: Ignored = None
    safety_identifier: Ignored = None


class InputImage(Strict):
    """`image_url`: a data URL of PNG, JPEG, WebP or GIF; http(s) if the operator allows it."""

    image_url: str


class EditsRequest(ImagesRequest):
    """A form has the files as `image` or `image[]`, JSON has `images`. `image_guidance_scale` is an extension: the
    scale of guidance by the pictures; `guidance_scale` is then that by the words."""

    images: Annotated[list[InputImage], Items, Field(min_length=1)]
    image_guidance_scale: Guidance | None = None
    mask: Annotated[Any, only(why="a mask is not supported: say in words what to change")] = None

    input_fidelity: Ignored = None


class InputDetails(BaseModel):
    image_tokens: int = 0
    text_tokens: int


class ImagesUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    total_tokens: int


class DrawnImage(BaseModel):
    """One of the two fields is set, by `response_format`; `url` is a data URL."""

    b64_json: str | None = None
    url: str | None = None


class ImagesResponse(BaseModel):
    """The same request with this `seed` gives the same pictures. size: the size of the pictures. unknown_words: words
    of the prompt that the model was not taught, if there are any."""

    created: int
    data: list[DrawnImage]
    background: Literal["opaque"] = "opaque"
    output_format: FileFormat = "png"
    size: str
    usage: ImagesUsage
    seed: int
    unknown_words: list[str] | None = None


class ImageEvent(BaseModel):
    """Common fields of both events of a streamed drawing; `image_index`: which of the n pictures."""

    b64_json: str
    created_at: int
    size: str
    quality: Literal["auto"] = "auto"
    output_format: FileFormat = "png"
    image_index: int
    seed: int


class PartialImage(ImageEvent):
    """An unfinished picture, transparent where nothing is drawn yet (in JPEG, white). progress: from 0 to 1."""

    type: Literal["image_generation.partial_image", "image_edit.partial_image"]
    background: Literal["transparent", "opaque"] = "transparent"
    partial_image_index: int
    progress: float


class CompletedImage(ImageEvent):
    type: Literal["image_generation.completed", "image_edit.completed"]
    background: Literal["opaque"] = "opaque"
    usage: ImagesUsage
    unknown_words: list[str] | None = None
