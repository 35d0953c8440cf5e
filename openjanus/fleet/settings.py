"""Settings of this plugin's parts in vLLM's server.

vLLM creates these parts in several processes, so the settings are passed in an environment variable.
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
    """server: the settings of `openjanus serve`; by default, vLLM listens at all addresses. paint_device: device that
    decodes image ids to pictures."""

    server: ServerSettings = field(default_factory=lambda: ServerSettings(host="0.0.0.0"))
    paint_device: str = "cpu"

    @classmethod
    def from_environment(cls) -> "FleetSettings":
        text = os.environ.get(VARIABLE)
        return configs.from_dict(cls, json.loads(text), VARIABLE) if text else cls()

    def into(self, environment: MutableMapping[str, str]) -> None:
        environment[VARIABLE] = json.dumps(configs.to_dict(self))
