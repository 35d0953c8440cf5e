"""What judges trainings and models: every prompt with noise of its own, and pictures of any size."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from openjanus.evaluation.world_report import WorldReport
from openjanus.inference.engine import Engine
from openjanus.inference.sampling import SamplingOptions
from openjanus.recipes import evaluators
from tests import tiny

OPTIONS = SamplingOptions(temperature=1.0, guidance=1.0, seed=5)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny.checkpoint())


def drawn(engine: Engine, prompts: Sequence[str], monkeypatch) -> list[Image.Image]:
    """What `evaluate` draws for these prompts."""
    images: list[Image.Image] = []

    def report(draw, *_) -> WorldReport:
        images.extend(draw(prompts))
        return WorldReport({})

    monkeypatch.setattr(evaluators, "report_on_world", report)
    evaluators.evaluate_emoji_world(engine, OPTIONS, 1, 1)
    return images


def test_evaluate_draws_prompt_k_with_seed_k_of_its_own(engine, monkeypatch) -> None:
    monkeypatch.setattr(evaluators, "BATCH", 2)
    prompts = ["a cat"] * 3
    images = drawn(engine, prompts, monkeypatch)
    for k, image in enumerate(images):
        (alone,) = engine.generate("a cat", OPTIONS, seed=OPTIONS.seed + k)
        assert (np.asarray(image) == np.asarray(alone)).all()
    assert len({image.tobytes() for image in images}) == 3
