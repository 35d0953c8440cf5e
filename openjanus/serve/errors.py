"""Errors in the API's own shape: {"error": {message, type, param, code}} with the status that OpenAI gives them."""

from collections.abc import Mapping, Sequence
from typing import Any

from openjanus.serve.schemas import ErrorAnswer, ErrorBody

TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "invalid_request_error",
    405: "invalid_request_error", 408: "invalid_request_error", 413: "invalid_request_error", 429: "rate_limit_error",
}  # fmt: skip


class ApiError(Exception):
    """An answer that is an error; every refusal of the server is one of these."""

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


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, code, param)


def of_validation(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first complaint of pydantic; what was sent is not repeated."""
    first = errors[0]
    where = [str(step) for step in first["loc"] if step != "body"]
    param = ".".join(where).encode(errors="replace").decode() or None  # a name may hold half of a character
    code = "unknown_parameter" if first["type"] == "extra_forbidden" else "invalid_value"
    if first["type"] == "json_invalid" or param is None:
        return invalid("the body is not a JSON object", code="invalid_json")
    message = "unknown parameter" if code == "unknown_parameter" else str(first["msg"])
    return invalid(f"{param}: {message}" if param else message, param, code)


def of_fault(error: BaseException) -> ApiError:
    """What the client hears of a fault of ours: no word of what happened inside."""
    import torch

    if isinstance(error, ApiError):
        return error
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return ApiError(503, "out of memory: ask for less, or try again later", "out_of_memory", headers=RETRY)
    return ApiError(500, "the server failed on this request", "internal_error")


RETRY = {"Retry-After": "1"}
