"""`POST /v1/images/generations` in vLLM's server (entry point `vllm.endpoint_plugins`).

    ImagesRequest ─► Drawing ─► n requests of one id each ─► vLLM ─► image ids ─► PNG

Requests, answers, events and errors are those of `openjanus serve` (serve/schemas, serve/drawing.py).
"""

import asyncio
import secrets
from argparse import Namespace
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from openjanus.fleet.config import FleetConfig
from openjanus.fleet.image_decoder import ImageDecoder
from openjanus.fleet.settings import FleetSettings
from openjanus.fleet.vocabulary import Vocabulary
from openjanus.processing.processor import Message
from openjanus.runtime import one_core_pool
from openjanus.serve.app import EventStream
from openjanus.serve.body import parse
from openjanus.serve.drawing import Drawing, sse
from openjanus.serve.errors import ApiError, invalid, note, of_fault
from openjanus.serve.log import log_fault, log_prompt
from openjanus.serve.schemas.images import ImagesRequest

SEEDS = 64  # picture k of a request has the seed 64 seed + k, so that different requests share no seeds


@dataclass
class Sketch:
    """One picture while it is drawn. shown: the number of ids when it was last sent."""

    index: int
    ids: list[int] = field(default_factory=list)
    shown: int = 0


class ImagesEndpoint:
    """vLLM's interface of an endpoint plugin: it calls `attach_router` with the app, then `init_state` with the
    engine."""

    name = "openjanus"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        app.add_api_route("/v1/images/generations", self.generations, methods=["POST"], include_in_schema=False)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        config = engine_client.model_config.hf_config
        if not isinstance(config, FleetConfig):
            raise ValueError("the model is not a Janus: start vLLM by `openjanus serve --engine vllm`")
        settings = FleetSettings.from_environment()
        self.engine, self.limits = engine_client, settings.server.limits
        self.names = [*(args.served_model_name or [args.model])]
        self.vocabulary: Vocabulary = config.read_vocabulary()
        self.paired, self.guidance = config.paired, config.guidance
        self.guides = self.paired and bool(engine_client.model_config.logits_processors)
        self.max_positions = engine_client.model_config.max_model_len
        self.threads = one_core_pool(1, "decoder")
        is_strict = settings.server.strict_sizes
        load = partial(ImageDecoder.load, args.model, args.revision, settings.paint_device, self.guidance, is_strict)
        self.decoder: ImageDecoder = await self._in_thread(load)

    async def generations(self, request: Request) -> Response:
        try:
            body = parse(await request.body(), ImagesRequest, self.limits)
            drawing, ids = await self._prepare(body)
            if body.stream:
                return await EventStream.begin(self._events(drawing, ids))
            pictures = await self._all(drawing, ids)
            return JSONResponse(drawing.response(pictures, len(ids)).model_dump(exclude_none=True))
        except Exception as error:
            refused = self._refusal(error)
            note(request.scope, refused)
            return JSONResponse(refused.body(), refused.status, refused.headers)

    def _refusal(self, error: Exception) -> ApiError:
        if isinstance(error, TimeoutError):
            seconds = self.limits.request_seconds
            return ApiError(504, f"the request took longer than {seconds:g} seconds", "timeout")
        if not isinstance(error, ApiError):
            log_fault(error)
        return of_fault(error)

    async def _prepare(self, body: ImagesRequest) -> tuple[Drawing, list[int]]:
        """The checked request and its prompt as ids. Raises ApiError for an unsupported request."""
        if body.model is not None and body.model not in self.names:
            raise ApiError(404, f"this server has one model, {self.names[0]!r}", "model_not_found", "model")
        limits = self.limits
        drawing = Drawing.of(body, limits, self.decoder.canvas)
        scale = drawing.options.guidance
        if not self.paired and scale != 1:
            raise invalid("this server keeps no second row for guidance: guidance_scale must be 1", "guidance_scale")
        if self.paired and not self.guides and scale != self.guidance:
            raise invalid(f"this server draws only with guidance_scale {self.guidance:g}", "guidance_scale")
        self._params(drawing, 0)
        log_prompt("draw", drawing.prompt)
        document = self.decoder.processor.prompt([Message("user", [drawing.prompt])], draw=True)
        ids = self.vocabulary.prompt_ids(document, draw=True)
        drawing.check_length(len(ids), limits)
        room = self.max_positions - self.decoder.canvas.num_image_ids
        if len(ids) > room:
            raise invalid(f"the prompt takes {len(ids)} positions, at most {room}", "prompt", "context_length_exceeded")
        return drawing, ids

    def _params(self, drawing: Drawing, index: int) -> Any:
        """vLLM's sampling parameters of picture `index`. Raises ApiError for values that vLLM rejects."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMValidationError
        from vllm.sampling_params import RequestOutputKind

        o = drawing.options
        try:
            return SamplingParams(
                temperature=o.temperature,
                top_k=o.top_k,
                top_p=o.top_p,
                seed=o.seed * SEEDS + index,
                max_tokens=drawing.canvas.num_image_ids,
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
                extra_args={"guidance": o.guidance} if self.guides else None,
            )
        except (ValueError, VLLMValidationError) as error:  # such as a temperature above 2
            raise invalid(str(error)) from None

    async def _ids(self, drawing: Drawing, prompt: list[int], index: int) -> AsyncGenerator[Sequence[int], None]:
        """Streams the image ids of one picture."""
        params = self._params(drawing, index)
        name = f"draw-{secrets.token_hex(8)}-{index}"
        async with aclosing(self.engine.generate({"prompt_token_ids": prompt}, params, name)) as outputs:
            async for output in outputs:
                yield self.vocabulary.image_ids(output.outputs[0].token_ids)

    async def _all(self, drawing: Drawing, prompt: list[int]) -> list[str]:
        """Draws the n pictures concurrently. If one fails, or after the time limit, all are cancelled."""
        tasks = [asyncio.create_task(self._whole(drawing, prompt, k)) for k in range(drawing.options.n)]
        try:
            async with asyncio.timeout(self.limits.request_seconds):
                return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _whole(self, drawing: Drawing, prompt: list[int], index: int) -> str:
        ids: list[int] = []
        async with aclosing(self._ids(drawing, prompt, index)) as steps:
            async for step in steps:
                ids += step
        return await self._in_thread(partial(drawing.picture, ids, index))

    async def _events(self, drawing: Drawing, prompt: list[int]) -> AsyncGenerator[str, None]:
        """Server-sent events, as in serve/images.py; each picture has its own progress."""
        common, total = drawing.event_fields(), drawing.canvas.num_image_ids
        updates: asyncio.Queue[Sketch | Exception] = asyncio.Queue()

        async def draw(sketch: Sketch) -> None:
            try:
                async with aclosing(self._ids(drawing, prompt, sketch.index)) as steps:
                    async for step in steps:
                        sketch.ids += step
                        if len(sketch.ids) == total or len(sketch.ids) in drawing.partial_at:
                            updates.put_nowait(sketch)
            except Exception as error:
                updates.put_nowait(error)

        tasks = [asyncio.create_task(draw(Sketch(k))) for k in range(drawing.options.n)]
        left = len(tasks)
        try:
            async with asyncio.timeout(self.limits.request_seconds):
                while left:
                    sketch = await updates.get()
                    if isinstance(sketch, Exception):
                        raise sketch
                    count = len(sketch.ids)
                    if count == sketch.shown:  # a later update was sent already
                        continue
                    sketch.shown, known = count, list(sketch.ids)
                    if count == total:
                        left -= 1
                        png = await self._in_thread(partial(drawing.picture, known, sketch.index))
                        yield sse(drawing.completed_event(common, png, sketch.index, len(prompt)))
                    else:
                        png = await self._in_thread(partial(drawing.partial_picture, known))
                        yield sse(drawing.partial_event(common, png, sketch.index, count))
        except Exception as error:
            raise self._refusal(error) from None
        finally:
            for task in tasks:
                task.cancel()

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.threads, call)
