"""Types that all endpoints share: bounded text and numbers, strict objects, and errors."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_KEYS = 128  # of one object of a request; each unknown key gives a validation error


def _encodable(text: str) -> str:
    """Raises for lone surrogates, which JSON can contain and tokenizers do not accept."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("half_character", "it holds half of a character (a lone surrogate)") from None
    return text


def only(*neutral: Any, why: str) -> AfterValidator:
    """An unsupported field: it may have these values only. `why` is the error message."""

    def check(value: Any) -> Any:
        if value not in neutral:
            raise PydanticCustomError("unsupported", "{why}", {"why": why})
        return value

    return AfterValidator(check)


def by_type(*types: str) -> Discriminator:
    """Chooses among objects by their type, the `Tag`. pydantic's own error message would quote the input."""

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
Items = Field(max_length=1024, fail_fast=True)  # of a list; validation stops at the first error
Ignored = Annotated[Any, AfterValidator(lambda _: None)]  # it does not change the answer


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
