"""What our parts of the server must know beside vLLM's arguments.

vLLM creates them, in several processes: so it reaches them through the environment.
"""

import json
import os
from collections.abc import MutableMapping
from dataclasses import dataclass, field

from openjanus import config as configs
from openjanus.config import Config
from openjanus.serve.settings import ServerSettings

VARIABLE = "OPENJANUS_FLEET"


@dataclass(frozen=True)
class FleetSettings(Config):
    """server: as `openjanus serve` got them; without, vLLM listens at every address. paint_device: where image ids
    become pictures."""

    server: ServerSettings = field(default_factory=lambda: ServerSettings(host="0.0.0.0"))
    paint_device: str = "cpu"

    @classmethod
    def from_environment(cls) -> "FleetSettings":
        text = os.environ.get(VARIABLE)
        return configs.from_dict(cls, json.loads(text), VARIABLE) if text else cls()

    def into(self, environment: MutableMapping[str, str]) -> None:
        environment[VARIABLE] = json.dumps(configs.to_dict(self))
