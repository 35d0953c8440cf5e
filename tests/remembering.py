"""A fixture for tests of a generation eye with a memory (toys/fading_eye.py)."""

from collections.abc import Iterator

import pytest

from openjanus.model.janus import GENERATION, JanusConfig
from tests import tiny
from tests.toys.fading_eye import FadingEye, FadingEyeConfig


@pytest.fixture(scope="module")
def fading_config() -> Iterator[JanusConfig]:
    """A tiny model's config with that eye, while the table has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(GENERATION, FadingEyeConfig, FadingEye)
        yield JanusConfig(
            tiny.LANGUAGE_MODEL, tiny.CONFIG.understanding, FadingEyeConfig(tiny.IMAGE_TOKENIZER, head_width=32)
        )
