"""openjanus serve: the OpenAI API and the page."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from openjanus.cli.console import console
from openjanus.cli.options import ModelOptions, Which
from openjanus.fleet.options import FleetOptions
from openjanus.serve.limits import Limits
from openjanus.serve.settings import ServerSettings
from openjanus.serve.signals import end_at_once, handled


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
    engine: Annotated[Literal["embedded", "vllm", "ray"], arg(help="see docs/vllm.md")] = "embedded",
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    fleet: FleetOptions = FleetOptions(),  # noqa: B008
    which: Which = ModelOptions(),  # noqa: B008  (frozen)
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
            run(which.engine, settings)
        elif engine == "vllm":
            from openjanus.fleet.command import server_command

            command = server_command(which, settings, fleet)
            console.print(str(command), style="dim")
            command.become()
        else:
            from openjanus.fleet.ray_serve import run_replicas

            run_replicas(which, settings, fleet.replicas)


def name_of(model: str) -> str:
    """The last part of a folder or hub id; for `.` the name of the current folder."""
    return Path(os.path.abspath(model)).name or "janus"
