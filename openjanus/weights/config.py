"""What a checkpoint is, whatever its format."""

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
    """All of a checkpoint but tensors and vocabulary. `sampling`: this model's own default settings, such as guidance
    and temperature. `tasks`: what it was trained to do."""

    model: JanusConfig
    processor: ProcessorConfig
    sampling: dict[str, NonNegativeFloat] = field(default_factory=dict)
    tasks: tuple[Task, ...] = TALK_AND_DRAW

    def check(self) -> None:
        """Raises ConfigError if the processor prepares pictures that the understanding eye cannot take."""
        given_px, taken_px = self.processor.pixels.size_px, self.model.understanding_size_px
        if given_px != taken_px:
            raise ConfigError(
                f"processor.pixels.size_px is {given_px}, but the understanding eye takes pictures of {taken_px} px: "
                "they must be equal"
            )

    def make_processor(self, text: TextTokenizer) -> Processor:
        """The processor of this checkpoint: a picture takes as many positions as the understanding eye says."""
        return Processor(self.processor, text, self.model.num_features)


@dataclass(frozen=True)
class About:
    """What a checkpoint's maker tells its users; `about.json` beside the config, which not every checkpoint has.

    description: a sentence or two. words: all that the model knows, by kind, such as things and colours; empty if that
    cannot be listed.
    """

    description: str
    words: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass
class Checkpoint:
    """A model with all that belongs to it. Raises ValueError if its parts do not fit together."""

    model: Janus
    processor: Processor
    sampling: dict[str, float]
    about: About | None = None
    tasks: tuple[Task, ...] = TALK_AND_DRAW

    def __post_init__(self) -> None:
        num_features = self.config.model.num_features  # making the config checks that its parts fit
        if self.processor.num_features != num_features:
            raise ConfigError(
                f"the processor's num_features is {self.processor.num_features}, but the understanding eye has "
                f"{num_features} positions: they must be equal"
            )

    @property
    def config(self) -> CheckpointConfig:
        return CheckpointConfig(self.model.config, self.processor.config, self.sampling, self.tasks)
