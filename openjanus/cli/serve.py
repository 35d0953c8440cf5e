"""openjanus serve: the OpenAI API and the page."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Suppress, arg

from openjanus.cli.console import console
from openjanus.cli.options import ModelOptions
from openjanus.fleet.options import FleetOptions
from openjanus.serve.limits import Limits
from openjanus.serve.settings import ServerSettings
from openjanus.serve.signals import end_at_once, handled

if TYPE_CHECKING:
    from openjanus.inference.engine import Engine


@dataclass(frozen=True)
class ServedModel(ModelOptions):
    """As for other commands; the adapters of a server are models of their own."""

    adapter: Suppress[None] = None


def serve(
    host: Annotated[str, arg(help="address to listen on; 0.0.0.0: all addresses of this machine")] = "127.0.0.1",
    port: Annotated[int, arg(help="0: any free one")] = 8000,
    name: Annotated[str | None, arg(help="what clients call the model; default: the last part of --model")] = None,
    alias: Annotated[tuple[str, ...], arg(help="further names of the model, such as gpt-image-1")] = (),
    slots: Annotated[int, arg(help="rows of the batch; a guided drawing needs two; 0: by model and memory")] = 0,
    positions: Annotated[int, arg(help="positions of a row, prompt and answer; 0: the model's, up to 4096")] = 0,
    api_keys: Annotated[Path | None, arg(help="file with API keys, one a line; also OPENJANUS_API_KEY")] = None,
    allow_host: Annotated[tuple[str, ...], arg(help="further names that the Host header may have")] = (),
    remote_pictures: Annotated[bool, arg(help="load pictures by http(s), from public addresses only")] = False,
    strict_sizes: Annotated[bool, arg(help="an unsupported size is an error; else: the nearest size")] = False,
    log_prompts: Annotated[bool, arg(help="log users' prompts")] = False,
    grace_seconds: Annotated[float, arg(help="for running requests, after SIGTERM")] = 30.0,
    adapter: Annotated[
        tuple[str, ...], arg(metavar="NAME=PATH ...", help="adapters (LoRA): each is a model beside the first")
    ] = (),
    engine: Annotated[Literal["embedded", "vllm", "ray"], arg(help="see docs/vllm.md")] = "embedded",
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    fleet: FleetOptions = FleetOptions(),  # noqa: B008
    which: Annotated[ServedModel, arg(name="")] = ServedModel(),
) -> None:
    """Serve the OpenAI API and a page to chat and draw, until SIGTERM."""
    # Set before torch is imported. vLLM and Ray handle signals themselves.
    with handled(end_at_once) if engine == "embedded" else nullcontext():
        from openjanus.serve.server import run

        settings = ServerSettings(
            host, port, name or name_of(which.model), alias, slots, positions, str(api_keys) if api_keys else None,
            allow_host, remote_pictures, log_prompts, grace_seconds, limits, strict_sizes,
        )  # fmt: skip
        if engine == "embedded":
            run(which.engine, settings, partial(_beside, which, adapter))
        elif adapter:
            raise ValueError(f"--engine {engine} serves no adapters: merge them by `openjanus convert --adapter`")
        elif engine == "vllm":
            from openjanus.fleet.command import server_command

            command = server_command(which, settings, fleet)
            console.print(str(command), style="dim")
            command.become()
        else:
            from openjanus.fleet.ray_serve import run_replicas

            run_replicas(which, settings, fleet.replicas)


def _beside(which: ServedModel, adapters: Sequence[str], first: "Engine") -> "dict[str, Engine]":
    """The engines of adapters, by name."""
    engines = {}
    for given in adapters:
        name, equals, path = given.partition("=")
        if not (name and equals and path):
            raise ValueError(f"--adapter {given!r}: expected NAME=PATH, such as mine=runs/mine/adapter")
        if name in engines:
            raise ValueError(f"--adapter: two are called {name!r}")
        source = ModelOptions(**{f.name: getattr(which, f.name) for f in fields(which)} | {"adapter": path})
        engines[name] = source.load(which.runtime(), beside=first)
    return engines


def name_of(model: str) -> str:
    """The last part of a folder or hub id; for `.` the name of the current folder."""
    return Path(os.path.abspath(model)).name or "janus"
