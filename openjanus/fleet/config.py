"""The config of a checkpoint for vLLM, read from a folder of any format (`--config-format openjanus`).

`paired` and `guidance` can be overridden: `--hf-overrides '{"paired": false}'`.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from vllm.transformers_utils.config_parser_base import ConfigParserBase

from openjanus import config as configs
from openjanus.fleet.vocabulary import Vocabulary
from openjanus.inference.sampling import SamplingOptions
from openjanus.weights.checkpoint import read_config
from openjanus.weights.config import CheckpointConfig
from openjanus.weights.hub import find_checkpoint

ARCHITECTURE = "OpenJanus"


class FleetConfig(PreTrainedConfig):
    """paired: keep both rows of guidance in every request's cache; without it there is no guidance (chat replicas).
    guidance: the default scale. checkpoint, vocabulary: the two dataclasses as plain data."""

    model_type = "openjanus"

    def __init__(
        self,
        checkpoint: dict[str, Any] | None = None,
        vocabulary: dict[str, int] | None = None,
        paired: bool = True,
        guidance: float = 5.0,
        **kwargs: Any,
    ):
        self.checkpoint, self.vocabulary = checkpoint or {}, vocabulary or {}
        self.paired, self.guidance = paired, guidance
        super().__init__(**kwargs)

    @classmethod
    def read(cls, folder: Path) -> "FleetConfig":
        """Reads a checkpoint folder. Raises ValueError if it is invalid, or has a signal eye."""
        checkpoint, text = read_config(folder)
        if (signal := checkpoint.model.signal) is not None:
            raise ValueError(
                f"{folder}: the model has a signal eye, {type(signal).__name__}, but the plugin for vLLM takes "
                "text and pictures only: use the engine of openjanus"
            )
        vocabulary = Vocabulary.of(checkpoint.model, text)
        lm = checkpoint.model.language_model
        return cls(
            checkpoint=configs.to_dict(checkpoint),
            vocabulary=asdict(vocabulary),
            guidance=checkpoint.sampling.get("guidance", SamplingOptions.guidance),
            architectures=[ARCHITECTURE],
            vocab_size=vocabulary.size,
            hidden_size=lm.width,
            num_hidden_layers=lm.num_layers,
            num_attention_heads=lm.num_heads,
            num_key_value_heads=lm.num_kv_heads,
            head_dim=lm.head_width,
            intermediate_size=lm.ffn_width,
            max_position_embeddings=lm.max_positions,
            bos_token_id=vocabulary.bos_id,
            eos_token_id=vocabulary.eos_id,
            pad_token_id=vocabulary.pad_id,
            tie_word_embeddings=False,  # as the logits are larger than the text head; the model itself ties the weights
            dtype="bfloat16",
        )

    def read_checkpoint(self) -> CheckpointConfig:
        return configs.from_dict(CheckpointConfig, self.checkpoint)

    def read_vocabulary(self) -> Vocabulary:
        return Vocabulary(**self.vocabulary)


class FleetConfigParser(ConfigParserBase):
    def parse(
        self,
        model: str | Path,
        trust_remote_code: bool,
        revision: str | None = None,
        code_revision: str | None = None,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], PreTrainedConfig]:
        config = FleetConfig.read(find_checkpoint(model, revision))
        return config.to_dict(), config
