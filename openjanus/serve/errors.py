"""Errors in OpenAI's format: {"error": {message, type, param, code}}, with OpenAI's HTTP status."""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch

from openjanus.serve.schemas.base import ErrorAnswer, ErrorBody

TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "invalid_request_error",
    405: "invalid_request_error", 408: "invalid_request_error", 413: "invalid_request_error", 429: "rate_limit_error",
}  # fmt: skip
MESSAGES = {"extra_forbidden": "unknown parameter", "missing": "it is missing"}
CODES = {"extra_forbidden": "unknown_parameter", "unsupported": "unsupported_parameter"}
OUTCOME = "openjanus.outcome"  # key of a request's scope for its `guard.Outcome`
MAX_NAME_CHARS, MAX_MESSAGE_CHARS = 64, 300


class ApiError(Exception):
    """An error response; the server reports every error as one of these."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        error = ErrorBody(
            message=self.message, type=TYPES.get(self.status, "server_error"), param=self.param, code=self.code
        )
        return ErrorAnswer(error=error).model_dump()


def note(scope: MutableMapping[str, Any], error: ApiError) -> None:
    """Records the error of a request, for the log and the metrics of the guard."""
    if OUTCOME in scope:
        scope[OUTCOME].error = error


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, code, param)


def of_validation(errors: Sequence[Mapping[str, Any]], body: Any) -> ApiError:
    """The first validation error of a request's body. It quotes only names of the body, truncated."""
    first = errors[0]
    param = ".".join(_path(first["loc"], body)) or None
    message = MESSAGES.get(first["type"], str(first["msg"])[:MAX_MESSAGE_CHARS])
    code = CODES.get(first["type"], "invalid_value")
    return invalid(f"{param}: {message}" if param else message, param, code)


def _path(loc: Sequence[str | int], body: Any) -> Iterator[str]:
    """The parts of a validation error's location that occur in the body, without pydantic's names of unions and
    functions.
    A last part that does not occur is the name of a missing field."""
    at_type = False
    for number, step in enumerate(loc):
        if isinstance(body, dict):
            at_type = not at_type and step == body.get("type")  # the name of a union's part, before its fields
            if at_type or (step not in body and (number < len(loc) - 1 or "(" in str(step))):
                continue
            body = body.get(step)
        elif isinstance(body, list) and isinstance(step, int):
            body = body[step]
        else:
            continue
        yield shortened(str(step))


def shortened(name: str) -> str:
    """A string of the client, truncated and encodable: it may contain a lone surrogate."""
    cut = name if len(name) <= MAX_NAME_CHARS else f"{name[:MAX_NAME_CHARS]}..."
    return cut.encode(errors="replace").decode()


def of_fault(error: BaseException) -> ApiError:
    """The error response to an exception. It reveals nothing about the exception."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return ApiError(503, "out of memory: request less, or try again later", "out_of_memory", headers=RETRY)
    return ApiError(500, "the server failed on this request", "internal_error")


RETRY = {"Retry-After": "1"}
