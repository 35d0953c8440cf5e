"""`GET /v1/models`."""

from typing import Literal

from pydantic import BaseModel


class DrawingDefaults(BaseModel):
    """Default settings of a drawing, the maximal number of pictures, and whether the model edits pictures."""

    guidance_scale: float
    temperature: float
    sizes: list[str]
    max_n: int
    edits: bool


class ModelAbout(BaseModel):
    """The checkpoint's description; `words`: its whole vocabulary, by kind."""

    description: str
    words: dict[str, list[str]]


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "openjanus"
    alias_of: str | None = None
    drawing: DrawingDefaults
    about: ModelAbout | None = None


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]
