"""A signal eye in a few lines: four levels through one linear layer become two positions."""

from dataclasses import dataclass

from torch import Tensor, nn

from openjanus.model.eye import SignalEye, SignalEyeConfig

NUM_LEVELS = 4


@dataclass(frozen=True)
class LevelEyeConfig(SignalEyeConfig):
    @property
    def num_positions(self) -> int:
        return 2


class LevelEye(SignalEye):
    """Signals [M, NUM_LEVELS] -> embeddings [M, 2, D]."""

    def __init__(self, c: LevelEyeConfig, width: int):
        super().__init__()
        self.linear = nn.Linear(NUM_LEVELS, c.num_positions * width)

    def initialise(self) -> None:
        nn.init.zeros_(self.linear.bias)

    def forward(self, signals: Tensor) -> Tensor:
        return self.linear(signals).unflatten(1, (2, -1))
