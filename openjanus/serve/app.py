"""The API and the page as one ASGI application.

POST /v1/chat/completions   POST /v1/images/generations   GET /v1/models   GET /v1/models/{model}
GET /health   GET /ready   GET /metrics   GET /openapi.json   GET /  (the page)
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from openjanus import __version__
from openjanus.serve import chat, images
from openjanus.serve.errors import ApiError, invalid, of_fault, of_validation
from openjanus.serve.guard import Guard, Keys
from openjanus.serve.log import log_fault
from openjanus.serve.metrics import Metrics
from openjanus.serve.page import FILES
from openjanus.serve.schemas import (
    ChatCompletion,
    ChatRequest,
    DrawingDefaults,
    ErrorAnswer,
    ImagesRequest,
    ImagesResponse,
    ModelAbout,
    ModelCard,
    ModelList,
    Status,
)
from openjanus.serve.service import Service

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 401, 403, 404, 405, 408, 413, 429, 500, 503, 504)
}


class EventStream(Response):
    """Server-sent events. The first one is there already, so that what fails before it has a status of its own."""

    media_type = "text/event-stream"

    def __init__(self, first: str, events: AsyncGenerator[str, None]):
        self.first, self.events = first, events
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with aclosing(self.events):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                await self._give(send, self.first)
                async for event in self.events:
                    await self._give(send, event)
            except ApiError as error:
                await self._give(send, f"data: {json.dumps(error.body())}\n\n")
            except Exception as error:
                log_fault(error)
                await self._give(send, f"data: {json.dumps(of_fault(error).body())}\n\n")
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    @staticmethod
    async def _give(send: Any, event: str) -> None:
        await send({"type": "http.response.body", "body": event.encode(), "more_body": True})

    @classmethod
    async def begin(cls, events: AsyncGenerator[str, None]) -> "EventStream":
        try:
            return cls(await anext(events), events)
        except BaseException:
            await events.aclose()
            raise


def make_app(service: Service, keys: Keys | None = None, hosts: Collection[str] = ()) -> Guard:
    """The whole server but its socket. keys: without any, everybody may ask. hosts: see Guard."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        service.stop()

    app = FastAPI(
        title="openjanus", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        redirect_slashes=False, responses=ERRORS,
    )  # fmt: skip
    _add_errors(app, service.metrics)
    _add_api(app, service)
    _add_status(app, service)
    return Guard(app, service.limits, service.metrics, keys or Keys(), hosts)


def _add_api(app: FastAPI, service: Service) -> None:
    events: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}

    @app.post("/v1/chat/completions", response_model=ChatCompletion, responses=events)
    async def chat_completions(body: ChatRequest) -> Any:
        service.check_model(body.model)
        if body.stream:
            return await EventStream.begin(chat.events(service, body))
        return await chat.whole(service, body)

    @app.post("/v1/images/generations", response_model=ImagesResponse, responses=events)
    async def image_generations(body: ImagesRequest) -> Any:
        service.check_model(body.model)
        if body.stream:
            return await EventStream.begin(images.events(service, body))
        return await images.whole(service, body)

    @app.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(data=[_card(service)])

    @app.get("/v1/models/{model}")
    async def model(model: str) -> ModelCard:
        service.check_model(model)
        return _card(service)


def _card(service: Service) -> ModelCard:
    options = service.engine.options()
    drawing = DrawingDefaults(
        guidance_scale=options.guidance, temperature=options.temperature, sizes=service.canvas.sizes,
        max_n=min(service.limits.max_n, service.worker.scheduler.cache.num_rows // 2),
    )  # fmt: skip
    said = service.engine.about
    about = ModelAbout.model_validate(said, from_attributes=True) if said is not None else None
    return ModelCard(id=service.name, created=service.created, drawing=drawing, about=about)


def _add_status(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> Status:
        """Whether the engine lives. While the server ends, it does."""
        if not service.worker.is_alive:
            raise ApiError(503, "the engine has failed", "engine_failed")
        return Status(status="ok")

    @app.get("/ready")
    async def ready() -> Status:
        """Whether a new request would be taken."""
        if not (service.worker.is_alive and service.worker.is_accepting):
            raise ApiError(503, "the server takes no new requests", "not_ready")
        return Status(status="ok")

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    for path, (content, media_type) in FILES.items():
        app.add_api_route(path, _file(content, media_type), include_in_schema=False)


def _file(content: bytes, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def file() -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return file


def _add_errors(app: FastAPI, metrics: Metrics) -> None:
    async def answer(_: Request, error: Exception) -> JSONResponse:
        if isinstance(error, RequestValidationError):
            error = of_validation(error.errors())
        elif isinstance(error, HTTPException):
            messages = {404: "there is nothing at this address", 405: "this address does not take that method"}
            known = error.status_code in messages
            error = (
                ApiError(error.status_code, messages[error.status_code], headers=error.headers)
                if known
                else invalid("the body is not a JSON object", code="invalid_json")
            )
        refused = of_fault(error)
        metrics.errors.labels(refused.code or str(refused.status)).inc()
        return JSONResponse(refused.body(), refused.status, refused.headers)

    for kind in (ApiError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)
