"""Parses a request's body into its schema, in bounded time and memory.

    bytes ─► number of values within the limit? ─► JSON ─► schema, up to the first error

Small values cost the most: a body of 12 MB can contain four million empty objects, each with its own validation error.
So brackets, commas and colons are counted before parsing.
"""

from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from pydantic import ValidationError
from pydantic.json_schema import models_json_schema
from pydantic_core import from_json
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from openjanus.serve.errors import invalid, of_validation
from openjanus.serve.limits import Limits
from openjanus.serve.schemas.base import Strict
from openjanus.serve.service import Service

STRUCTURE = (b"{", b"[", b",", b":")
MAX_FORM_FIELDS = 64
M = TypeVar("M", bound=Strict)


def reads(kind: type[M], service: Service) -> Callable[[Request], Awaitable[M]]:
    """A FastAPI dependency: the parsed body of a request. It raises ApiError."""

    async def read(request: Request) -> M:
        # Browsers let foreign pages send text/plain without a CORS preflight.
        media_type = media_type_of(request)
        if media_type != "application/json" and not media_type.endswith("+json"):
            raise invalid("send the header Content-Type: application/json", code="invalid_content_type")
        data = await request.body()
        return await service.parse(lambda: parse(data, kind, service.limits))

    return read


def reads_form(kind: type[M], service: Service) -> Callable[[Request], Awaitable[M]]:
    """As `reads`, for a form with pictures, or the same as JSON."""
    read_json = reads(kind, service)

    async def read(request: Request) -> M:
        if media_type_of(request) != "multipart/form-data":
            return await read_json(request)
        fields = await read_form(request, service.limits)
        return await service.parse(lambda: fit(fields, kind))

    return read


def media_type_of(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_form(request: Request, limits: Limits) -> dict[str, Any]:
    """The fields of a form, its pictures (`image` or `image[]`) as data URLs under `images`. Raises ApiError."""
    parser = MultiPartParser(
        request.headers,
        request.stream(),
        max_files=limits.max_pictures + 1,  # a mask, which the schema refuses with a reason
        max_fields=MAX_FORM_FIELDS,
        max_part_size=4 * limits.max_prompt_chars,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise invalid(f"the form cannot be read: {error.message}", code="invalid_form") from None
    fields: dict[str, Any] = {}
    try:
        for name, value in form.multi_items():
            is_picture = name in ("image", "image[]")
            if isinstance(value, UploadFile):
                value = f"data:image/png;base64,{b64encode(await value.read()).decode()}" if is_picture else "a file"
            if is_picture:
                fields.setdefault("images", []).append({"image_url": value})
            elif name in fields:
                raise invalid(f"the form has {name[:80]!r} twice", code="invalid_form")
            else:
                fields[name] = value
    finally:
        await form.close()
    return fields


def parse(data: bytes, kind: type[M], limits: Limits) -> M:
    """Raises ApiError if the body is not a JSON object, has too many values, or does not match the schema."""
    limit = limits.max_body_values + limits.max_prompt_chars  # a prompt may consist of commas
    if sum(map(data.count, STRUCTURE)) > limit:
        raise invalid(f"the body has too many values: at most {limit:,} braces, commas and colons", None, TOO_MANY)
    try:
        body = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise invalid("the body must be a JSON object", code="invalid_json")
    return fit(body, kind)


def fit(body: Any, kind: type[M]) -> M:
    """Validates a parsed body. Raises ApiError."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise of_validation(error.errors(include_url=False, include_input=False), body) from None


def describe(app: FastAPI, bodies: Mapping[str, type[Strict]]) -> None:
    """Adds the schemas of POST bodies, by path, to the app's OpenAPI schema."""
    reference = "#/components/schemas/{model}"
    _, schemas = models_json_schema([(kind, "validation") for kind in bodies.values()], ref_template=reference)
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            described = plain()
            described["components"]["schemas"].update(schemas["$defs"])
            for path, kind in bodies.items():
                content = {"application/json": {"schema": {"$ref": reference.format(model=kind.__name__)}}}
                described["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


TOO_MANY = "too_many_values"
