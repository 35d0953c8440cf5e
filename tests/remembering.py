"""Fixtures for tests of generation eyes with a memory: a toy (toys/fading_eye.py), and the semantic eye."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from openjanus.model.janus import GENERATION, JanusConfig
from openjanus.model.semantic_eye import SemanticEyeConfig
from openjanus.model.semantic_tokenizer import SemanticDecoderConfig
from openjanus.model.shared_eye import SharedEyeConfig
from tests import tiny
from tests.toys.fading_eye import FadingEye, FadingEyeConfig

DECODER = SemanticDecoderConfig(width=32, num_layers=2, num_heads=2, mlp_width=48, feature_width=32)
SEMANTIC = replace(tiny.CONFIG, generation=SemanticEyeConfig(tiny.IMAGE_TOKENIZER, 32, DECODER))
SHARED_SEMANTIC = replace(SEMANTIC, understanding=SharedEyeConfig())
FADING = replace(tiny.CONFIG, generation=FadingEyeConfig(tiny.IMAGE_TOKENIZER, head_width=32))


@pytest.fixture(scope="module", params=[FADING, SEMANTIC, SHARED_SEMANTIC], ids=["toy", "semantic", "shared semantic"])
def remembering_config(request: pytest.FixtureRequest) -> Iterator[JanusConfig]:
    """A tiny model's config with such an eye, while the table has the toy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(GENERATION, FadingEyeConfig, FadingEye)
        yield request.param
