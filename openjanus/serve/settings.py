"""The settings of `openjanus serve` that do not depend on the engine."""

from dataclasses import dataclass, field
from typing import Annotated

from openjanus.config import Config, NonNegativeFloat, NonNegativeInt, Range
from openjanus.serve.limits import Limits


@dataclass(frozen=True)
class ServerSettings(Config):
    """See the help of `openjanus serve`. api_keys: a file with one key a line; the key of OPENJANUS_API_KEY is
    added."""

    host: str = "127.0.0.1"
    port: Annotated[int, Range(0, 65535)] = 8000
    name: str = "nano"
    aliases: tuple[str, ...] = ()
    slots: NonNegativeInt = 0
    positions: NonNegativeInt = 0
    api_keys: str | None = None
    allow_host: tuple[str, ...] = ()
    remote_pictures: bool = False
    log_prompts: bool = False
    grace_seconds: NonNegativeFloat = 30.0
    limits: Limits = field(default_factory=Limits)
    strict_sizes: bool = False
