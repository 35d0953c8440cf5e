"""Options of `openjanus serve` for vLLM and Ray."""

from dataclasses import dataclass
from typing import Annotated

from openjanus.config import Config, ConfigError, PositiveInt, Range


@dataclass(frozen=True)
class FleetOptions(Config):
    """Settings of `--engine vllm` and `--engine ray`.

    unpaired: vLLM: no second row for guidance, half the cache; for chat replicas.
    guidance: vLLM: default scale of drawings; default: the checkpoint's own.
    paint_device: vLLM: device that decodes image ids to pictures, such as cuda:1.
    vllm: further arguments of vLLM, without dashes: tensor-parallel-size=2 enforce-eager
    replicas: Ray: number of engines.
    """

    unpaired: bool = False
    guidance: Annotated[float, Range(1)] | None = None
    paint_device: str = "cpu"
    vllm: tuple[str, ...] = ()
    replicas: PositiveInt = 2

    def check(self) -> None:
        for argument in self.vllm:
            if argument.startswith(("-", "=")) or not argument:
                raise ConfigError(
                    f"vllm has {argument!r}, expected an argument of vLLM without dashes, name or name=value"
                )
