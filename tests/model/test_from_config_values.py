"""Models of other parts are config values and nothing else: a shared eye, a tower of transformers, a Qwen3 body."""

from typing import Any

import pytest

from openjanus import config as configs
from openjanus.model.janus import JanusConfig
from tests import tiny
from tests.toys.live_through import live_through

PLAIN = configs.to_dict(tiny.CONFIG)
CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "image_size": 16, "patch_size": 4,
}  # fmt: skip
# As Qwen3: norms of queries and keys, heads wider than the body shared out among them, a table for both ends.
QWEN3 = {"qk_norm": True, "head_width": 16, "rope_theta": 1e6, "tie_text_head": True}
MODELS: dict[str, dict[str, Any]] = {
    "shared eye": {"understanding": {"type": "SharedEyeConfig"}},
    "tower": {"understanding": {"type": "TowerEyeConfig", "encoder": CLIP, "layer": -2}},
    "qwen3": {"language_model": PLAIN["language_model"] | QWEN3},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_from_config_values_trains_is_stored_draws_and_answers(name, tmp_path) -> None:
    config = configs.from_dict(JanusConfig, PLAIN | MODELS[name])
    assert config != tiny.CONFIG
    live_through(config, tmp_path)
