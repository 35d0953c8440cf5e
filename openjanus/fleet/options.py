"""What `openjanus serve` takes for the two engines of a fleet."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FleetOptions:
    """Settings of `--engine vllm` and `--engine ray`.

    unpaired: vLLM: no second row for guidance, half the cache; for replicas that chat.
    guidance: vLLM: of a drawing whose request says nothing; default: the checkpoint's own.
    paint_device: vLLM: where image ids become pictures, such as cuda:1.
    vllm: more of vLLM's own arguments, without dashes: tensor-parallel-size=2 enforce-eager
    replicas: Ray: how many engines.
    """

    unpaired: bool = False
    guidance: float | None = None
    paint_device: str = "cpu"
    vllm: tuple[str, ...] = ()
    replicas: int = 2

    def __post_init__(self) -> None:
        for argument in self.vllm:
            if argument.startswith(("-", "=")) or not argument:
                raise ValueError(f"{argument!r}: expected an argument of vLLM's without dashes, name or name=value")
        if self.replicas < 1:
            raise ValueError(f"replicas is {self.replicas}, expected 1 or more")
        if self.guidance is not None and not 1 <= self.guidance < float("inf"):
            raise ValueError(f"guidance is {self.guidance}, expected 1 or more")
