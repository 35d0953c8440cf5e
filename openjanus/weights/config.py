"""What a checkpoint is, whatever its format."""

from dataclasses import dataclass, field

from openjanus.config import Config, ConfigError, NonNegativeFloat
from openjanus.model.janus import Janus, JanusConfig
from openjanus.processing.processor import Processor, ProcessorConfig


@dataclass(frozen=True)
class CheckpointConfig(Config):
    """All of a checkpoint but tensors and vocabulary. `sampling`: this model's own default settings, such as guidance
    and temperature."""

    model: JanusConfig
    processor: ProcessorConfig
    sampling: dict[str, NonNegativeFloat] = field(default_factory=dict)

    def check(self) -> None:
        """Raises ConfigError if the processor prepares pictures that the understanding eye cannot take."""
        eye, processor = self.model.vision_encoder, self.processor
        if processor.num_features != eye.num_features:
            raise ConfigError(
                f"processor.num_features is {processor.num_features}, but model.vision_encoder has {eye.num_features} "
                "positions: they must be equal"
            )
        if processor.pixels.size_px != eye.image_size_px:
            raise ConfigError(
                f"processor.pixels.size_px is {processor.pixels.size_px}, but model.vision_encoder.image_size_px is "
                f"{eye.image_size_px}: they must be equal"
            )


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

    def __post_init__(self) -> None:
        _ = self.config  # making it checks that the parts fit

    @property
    def config(self) -> CheckpointConfig:
        return CheckpointConfig(self.model.config, self.processor.config, self.sampling)
