"""What the requests of all endpoints share: bounded text and numbers, objects that are read strictly, and errors."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_KEYS = 128  # of one object of a request; every unknown one would be an error of its own


def _encodable(text: str) -> str:
    """JSON can hold halves of characters, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("half_character", "it holds half of a character (a lone surrogate)") from None
    return text


def only(*neutral: Any, why: str) -> AfterValidator:
    """A field that we know but cannot honour: it may have these values only. `why` is the refusal."""

    def check(value: Any) -> Any:
        if value not in neutral:
            raise PydanticCustomError("unsupported", "{why}", {"why": why})
        return value

    return AfterValidator(check)


def by_type(*types: str) -> Discriminator:
    """Chooses among objects, each with its type as `Tag`. pydantic's own complaint would repeat what came instead."""

    def kind(value: Any) -> str | None:
        given = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
        return given if given in types else None

    return Discriminator(kind, "wrong_type", f"expected an object of type {' or '.join(types)}")


Text = Annotated[str, AfterValidator(_encodable)]
Seed = Annotated[int, Field(ge=0, lt=2**57)]
Temperature = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
TopK = Annotated[int, Field(ge=0, le=2**31)]
Guidance = Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Items = Field(max_length=1024, fail_fast=True)  # of a list; one error is enough
Ignored = Annotated[Any, AfterValidator(lambda _: None)]  # it changes no answer


class Strict(BaseModel):
    """An object of a request."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if len(value) > MAX_KEYS:
            raise PydanticCustomError(
                "too_many_fields", "{num} fields, at most {most} are read", {"num": len(value), "most": MAX_KEYS}
            )
        return {name: field for name, field in value.items() if field is not None}


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    error: ErrorBody


class Status(BaseModel):
    status: str
