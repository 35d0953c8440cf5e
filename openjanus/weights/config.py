"""The contents of a checkpoint, for all formats."""

from dataclasses import dataclass, field
from typing import Literal

from openjanus.config import Config, ConfigError, NonNegativeFloat
from openjanus.model.janus import Janus, JanusConfig
from openjanus.processing.processor import Processor, ProcessorConfig
from openjanus.processing.text import TextTokenizer

Task = Literal["talk", "draw", "edit"]
TALK_AND_DRAW: tuple[Task, ...] = ("talk", "draw")


@dataclass(frozen=True)
class CheckpointConfig(Config):
    """A checkpoint without tensors and vocabulary. `sampling`: the model's default settings, such as guidance and
    temperature. `tasks`: the tasks of its training."""

    model: JanusConfig
    processor: ProcessorConfig
    sampling: dict[str, NonNegativeFloat] = field(default_factory=dict)
    tasks: tuple[Task, ...] = TALK_AND_DRAW

    def check(self) -> None:
        """Raises ConfigError if the processor's pictures do not fit the understanding eye."""
        given_px, taken_px = self.processor.pixels.size_px, self.model.understanding_size_px
        if given_px != taken_px:
            raise ConfigError(
                f"processor.pixels.size_px is {given_px}, but the understanding eye takes pictures of {taken_px} px: "
                "they must be equal"
            )

    def make_processor(self, text: TextTokenizer) -> Processor:
        """The processor of this checkpoint, with the understanding eye's number of positions for a picture."""
        return Processor(self.processor, text, self.model.num_features)


@dataclass(frozen=True)
class About:
    """A description of a checkpoint for its users, the optional file `about.json`.

    description: one or two sentences. words: the model's whole vocabulary by kind, such as things and colours; empty if
    it cannot be listed.
    """

    description: str
    words: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass
class Checkpoint:
    """A model with its processor and settings. Raises ValueError if they do not fit together."""

    model: Janus
    processor: Processor
    sampling: dict[str, float]
    about: About | None = None
    tasks: tuple[Task, ...] = TALK_AND_DRAW

    def __post_init__(self) -> None:
        num_features = self.config.model.num_features  # the config's constructor checks its parts
        if self.processor.num_features != num_features:
            raise ConfigError(
                f"the processor's num_features is {self.processor.num_features}, but the understanding eye has "
                f"{num_features} positions: they must be equal"
            )

    @property
    def config(self) -> CheckpointConfig:
        return CheckpointConfig(self.model.config, self.processor.config, self.sampling, self.tasks)
