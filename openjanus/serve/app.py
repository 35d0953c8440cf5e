"""The API and the page as one ASGI application.

POST /v1/chat/completions   POST /v1/images/generations   POST /v1/images/edits
POST /v1/responses   GET, DELETE /v1/responses/{id}   GET /v1/models   GET /v1/models/{model}
GET /health   GET /ready   GET /metrics   GET /openapi.json   GET /  (the page)

HEAD is answered wherever GET is.
"""

import gc
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, MutableMapping
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from openjanus import __version__
from openjanus.serve import chat, images, responses
from openjanus.serve.body import describe, reads, reads_form
from openjanus.serve.errors import ApiError, note, of_fault
from openjanus.serve.guard import App, Guard, Keys, Receive, Send
from openjanus.serve.log import log_fault
from openjanus.serve.page import FILES
from openjanus.serve.schemas.base import ErrorAnswer, Status
from openjanus.serve.schemas.chat import ChatCompletion, ChatRequest
from openjanus.serve.schemas.images import EditsRequest, ImagesRequest, ImagesResponse
from openjanus.serve.schemas.models import DrawingDefaults, ModelAbout, ModelCard, ModelList
from openjanus.serve.schemas.responses import Deleted, ResponsesAnswer, ResponsesRequest
from openjanus.serve.service import Service

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 401, 403, 404, 405, 408, 413, 429, 500, 503, 504)
}
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
IMAGES, EDITS = "/v1/images/generations", "/v1/images/edits"
NOTHING_HERE = f"there is nothing at this address; the API has {CHAT}, {RESPONSES}, {IMAGES}, {EDITS} and /v1/models"
_NO_EDITS = f"this model does not edit pictures: draw with POST {IMAGES}, ask about a picture with POST {CHAT}"
NOT_HERE = {
    "/v1/images/variations": f"this model makes no variations: draw with POST {IMAGES}, edit with POST {EDITS}",
    "/v1/completions": f"this model answers conversations only: use POST {CHAT}",
}


def _failure(error: ApiError) -> str:
    return f"data: {json.dumps(error.body())}\n\n"


class EventStream(Response):
    """Server-sent events. The first one is computed before the headers are sent: an earlier error gets its own HTTP
    status."""

    media_type = "text/event-stream"

    def __init__(self, first: str, events: AsyncGenerator[str, None], failure: Callable[[ApiError], str]):
        self.first, self.events, self.failure = first, events, failure
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with aclosing(self.events):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                await self._give(send, self.first)
                async for event in self.events:
                    await self._give(send, event)
            except Exception as error:
                if not isinstance(error, ApiError):
                    log_fault(error)
                failed = of_fault(error)
                note(scope, failed)
                await self._give(send, self.failure(failed))
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    @staticmethod
    async def _give(send: Any, event: str) -> None:
        await send({"type": "http.response.body", "body": event.encode(), "more_body": True})

    @classmethod
    async def begin(
        cls, events: AsyncGenerator[str, None], failure: Callable[[ApiError], str] = _failure
    ) -> "EventStream":
        """failure: the last event of a stream that fails."""
        try:
            return cls(await anext(events), events, failure)
        except BaseException:
            await events.aclose()
            raise


def make_app(service: Service, keys: Keys | None = None, hosts: Collection[str] = ()) -> Guard:
    """The whole server but its socket. keys: without keys, nobody needs one. hosts: see Guard."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for worker in service.workers:
            worker.start()
        # These objects live as long as the server: a full collection would scan all of them and pause every stream.
        gc.freeze()
        yield
        gc.unfreeze()
        service.stop()

    app = FastAPI(
        title="openjanus", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        redirect_slashes=False, responses=ERRORS,
    )  # fmt: skip
    _add_errors(app)
    _add_api(app, service)
    _add_status(app, service)
    describe(app, {CHAT: ChatRequest, IMAGES: ImagesRequest, EDITS: EditsRequest, RESPONSES: ResponsesRequest})
    return Guard(_head_as_get(app), service.limits, service.metrics, keys or Keys(), hosts)


def _head_as_get(app: FastAPI) -> App:
    """HEAD as GET: uvicorn leaves out the body of the answer."""

    async def call(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        await app({**scope, "method": "GET"} if scope.get("method") == "HEAD" else scope, receive, send)

    return call


def _add_api(app: FastAPI, service: Service) -> None:
    events: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}

    @app.post(CHAT, response_model=ChatCompletion, responses=events)
    async def chat_completions(body: Annotated[ChatRequest, Depends(reads(ChatRequest, service))]) -> Any:
        asked = service.of(body.model)
        if body.stream:
            return await EventStream.begin(chat.events(asked, body))
        return await chat.whole(asked, body)

    @app.post(IMAGES, response_model=ImagesResponse, response_model_exclude_none=True, responses=events)
    async def image_generations(body: Annotated[ImagesRequest, Depends(reads(ImagesRequest, service))]) -> Any:
        asked = service.of(body.model)
        if body.stream:
            return await EventStream.begin(images.events(asked, body))
        return await images.whole(asked, body)

    async def edits() -> None:
        if not any("edit" in model.engine.tasks for model in service.models):
            raise ApiError(404, _NO_EDITS)

    @app.post(
        EDITS, response_model=ImagesResponse, response_model_exclude_none=True, responses=events,
        dependencies=[Depends(edits)],
    )  # fmt: skip
    async def image_edits(body: Annotated[EditsRequest, Depends(reads_form(EditsRequest, service))]) -> Any:
        asked = service.of(body.model)
        if "edit" not in asked.engine.tasks:
            raise ApiError(404, _NO_EDITS)
        if body.stream:
            return await EventStream.begin(images.events(asked, body))
        return await images.whole(asked, body)

    Owner = Annotated[str, Depends(_owner)]

    @app.post(RESPONSES, response_model=ResponsesAnswer, responses=events)
    async def make_response(
        body: Annotated[ResponsesRequest, Depends(reads(ResponsesRequest, service))], owner: Owner
    ) -> Any:
        asked = service.of(body.model)
        if body.stream:
            event = responses.Events()
            return await EventStream.begin(responses.events(asked, body, owner, event), event.failure)
        return await responses.whole(asked, body, owner)

    @app.get(RESPONSES + "/{id}")
    async def kept_response(id: str, owner: Owner) -> ResponsesAnswer:
        return service.store.get(id, owner).answer

    @app.delete(RESPONSES + "/{id}")
    async def forget_response(id: str, owner: Owner) -> Deleted:
        service.store.delete(id, owner)
        return Deleted(id=id)

    @app.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(data=[_card(model, name) for model in service.models for name in model.names])

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> ModelCard:
        return _card(service.of(model), model)


def _owner(request: Request) -> str:
    """The owner of stored answers: a digest of the API key. A request may use the answers of its own key only."""
    return hashlib.sha256(request.headers.get("authorization", "").encode()).hexdigest()


def _card(service: Service, name: str) -> ModelCard:
    options = service.engine.options()
    drawing = DrawingDefaults(
        guidance_scale=options.guidance, temperature=options.temperature, sizes=service.canvas.sizes,
        max_n=min(service.limits.max_n, service.worker.scheduler.cache.num_rows // 2),
        edits="edit" in service.engine.tasks,
    )  # fmt: skip
    stored = service.engine.about
    about = None if stored is None else ModelAbout.model_validate(stored, from_attributes=True)
    alias_of = None if name == service.name else service.name
    return ModelCard(id=name, created=service.created, alias_of=alias_of, drawing=drawing, about=about)


def _add_status(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> Status:
        """Liveness of the engine; also 200 during shutdown."""
        if not all(worker.is_alive for worker in service.workers):
            raise ApiError(503, "the engine has failed", "engine_failed")
        return Status(status="ok")

    @app.get("/ready")
    async def ready() -> Status:
        """Readiness for new requests."""
        if not all(worker.is_alive and worker.is_accepting for worker in service.workers):
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


def _add_errors(app: FastAPI) -> None:
    async def answer(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, HTTPException):
            status, path = error.status_code, request.url.path
            message = {404: NOT_HERE.get(path, NOTHING_HERE), 405: "this address does not take that method"}
            error = ApiError(status, message.get(status, "the request cannot be read"), headers=error.headers)
        refused = of_fault(error)
        note(request.scope, refused)
        return JSONResponse(refused.body(), refused.status, refused.headers)

    for kind in (ApiError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)
