"""What our parts of the server must know beside vLLM's arguments.

vLLM creates them, in several processes: so it reaches them through the environment.
"""

import json
import os
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

from openjanus import config as configs
from openjanus.config import Config
from openjanus.serve.limits import Limits

VARIABLE = "OPENJANUS_FLEET"


@dataclass(frozen=True)
class FleetSettings(Config):
    """api_keys: a file, one a line; OPENJANUS_API_KEY counts too. hosts: names that the Host header may have, empty for
    any. paint_device: where image ids become pictures."""

    limits: Limits = field(default_factory=Limits)
    api_keys: str | None = None
    hosts: tuple[str, ...] = ()
    remote_pictures: bool = False
    log_prompts: bool = False
    paint_device: str = "cpu"
    strict_sizes: bool = False

    @classmethod
    def from_environment(cls) -> "FleetSettings":
        text = os.environ.get(VARIABLE)
        return configs.from_dict(cls, json.loads(text), VARIABLE) if text else cls()

    def into(self, environment: MutableMapping[str, str]) -> None:
        environment[VARIABLE] = json.dumps(configs.to_dict(self))

    @property
    def key_file(self) -> Path | None:
        return Path(self.api_keys) if self.api_keys else None
