"""What `openjanus serve` takes for the two engines of a fleet."""

from dataclasses import dataclass
from typing import Annotated

from openjanus.config import Config, ConfigError, PositiveInt, Range


@dataclass(frozen=True)
class FleetOptions(Config):
    """Settings of `--engine vllm` and `--engine ray`.

    unpaired: vLLM: no second row for guidance, half the cache; for replicas that chat.
    guidance: vLLM: of a drawing whose request says nothing; default: the checkpoint's own.
    paint_device: vLLM: where image ids become pictures, such as cuda:1.
    vllm: more of vLLM's own arguments, without dashes: tensor-parallel-size=2 enforce-eager
    replicas: Ray: how many engines.
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
                    f"vllm has {argument!r}, expected an argument of vLLM's without dashes, name or name=value"
                )
