"""What judges trainings and models: every prompt with noise of its own, and pictures of any size."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from openjanus.emoji.world_report import WorldReport
from openjanus.eyes.tokenizer import TokenizerTraining, tokenizer_training
from openjanus.inference.engine import Engine
from openjanus.inference.sampling import SamplingOptions
from openjanus.processing.processor import ROLES, Processor
from openjanus.recipes import evaluators
from openjanus.training.janus import JanusTraining, janus_training
from openjanus.training.loop import Training
from openjanus.weights import checkpoint
from openjanus.weights.config import Checkpoint
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


@pytest.fixture
def training(tmp_path) -> Training:
    """A fine-tuning whose checkpoint has a template, settings and a vocabulary of its own."""
    text = tiny.text_tokenizer().with_special(*ROLES["deepseek"].values())
    config = replace(tiny.CONFIG, language_model=replace(tiny.LANGUAGE_MODEL, vocab_size=1088))
    kept = Checkpoint(
        tiny.janus(config), Processor(replace(tiny.PROCESSOR, template="deepseek"), text, 4), {"temperature": 0.0}
    )
    checkpoint.save(kept, tmp_path / "start")
    task = JanusTraining(str(tmp_path / "start"), "")
    return janus_training(task, 0)


def test_a_preview_talks_by_what_the_training_talks_by(training, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(evaluators, "NUM_PREVIEWS", 2)
    engines, seeds = [], []
    draw = Engine.generate

    def generate(engine: Engine, prompts, *arguments, **named):
        engines.append(engine)
        seeds.extend(named["seeds"])
        return draw(engine, prompts, *arguments, **named)

    monkeypatch.setattr(Engine, "generate", generate)
    (preview,) = evaluators.evaluators_of(training)
    with torch.no_grad():
        figures = preview(training.model.eval(), 3, tmp_path)
    assert set(figures) == {"preview_accepted", "preview_answers"}
    (engine,) = engines
    assert engine.processor is training.checkpoint.processor and engine.model is training.model
    assert engine.options().temperature == 0.0
    assert len(set(seeds)) == 2
    assert (tmp_path / "000003.png").exists() and len((tmp_path / "000003.txt").read_text().splitlines()) == 2


def test_pictures_of_other_sizes_than_the_worlds_are_judged(engine, tmp_path, monkeypatch) -> None:
    report = evaluators.evaluate_emoji_world(engine, OPTIONS, 1, 1)
    assert set(report.reconstructions) == {"seen", "heldout_color", "heldout_pair"}
    assert all(drawings.n == 1 for drawings in report.reconstructions.values())
    assert all(drawings.n == 1 for drawings in report.drawings.values())
    monkeypatch.setattr(evaluators, "NUM_PREVIEWS", 4)
    tokenizer = tokenizer_training(TokenizerTraining(tiny.IMAGE_TOKENIZER, perceptual_weight=0.0), 0)
    (preview,) = evaluators.evaluators_of(tokenizer)
    with torch.no_grad():
        assert set(preview(tokenizer.model.eval(), 0, tmp_path)) == {"preview_accepted"}
