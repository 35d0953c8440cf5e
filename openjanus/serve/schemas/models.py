"""`GET /v1/models`."""

from typing import Literal

from pydantic import BaseModel


class DrawingDefaults(BaseModel):
    """What a drawing uses if its request does not say, and how many pictures it may ask for."""

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
