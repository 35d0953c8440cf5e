"""What a checkpoint is, whatever its format."""

from dataclasses import dataclass, field

from openjanus.model.janus import Janus, JanusConfig
from openjanus.processing.processor import Processor, ProcessorConfig


@dataclass(frozen=True)
class CheckpointConfig:
    """All of a checkpoint but tensors and vocabulary. `sampling`: this model's own default settings, such as guidance
    and temperature."""

    model: JanusConfig
    processor: ProcessorConfig
    sampling: dict[str, float] = field(default_factory=dict)


@dataclass
class Checkpoint:
    """A model with all that belongs to it."""

    model: Janus
    processor: Processor
    sampling: dict[str, float]

    @property
    def config(self) -> CheckpointConfig:
        return CheckpointConfig(self.model.config, self.processor.config, self.sampling)
