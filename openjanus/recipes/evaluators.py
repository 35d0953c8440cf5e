"""Evaluators of trainings: previews during a training, and the report on a finished model (floor 6).

The training loop does not depend on them: it gets callables.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from openjanus.emoji import grammar, world
from openjanus.emoji.drawing_score import in_world_size, judge
from openjanus.emoji.splits import stream
from openjanus.emoji.world_report import WorldReport, report_on_world
from openjanus.eyes.examples import stack_pictures
from openjanus.eyes.tokenizer import TokenizerAndDiscriminator
from openjanus.inference.engine import Engine
from openjanus.inference.prompt import Prompt
from openjanus.inference.sampling import SamplingOptions
from openjanus.model.image_tokenizer import ImageTokenizer
from openjanus.picture_files import contact_sheet
from openjanus.processing.image import to_images
from openjanus.processing.message import Conversation, Message
from openjanus.recipes.adapter_files import save_adapter
from openjanus.recipes.own_data import OwnDataPreview
from openjanus.training.janus import JanusData
from openjanus.training.loop import Evaluator, Training
from openjanus.training.run import read_run
from openjanus.weights import checkpoint
from openjanus.weights.config import Checkpoint

PREVIEW_SEED = 7
NUM_PREVIEWS = 32
BATCH = 50
ANSWER_TOKENS = 16  # of a preview's answer; true answers have up to 3


def evaluators_of(training: Training) -> Sequence[Evaluator]:
    """The previews for a kind of training."""
    if training.checkpoint is not None and isinstance(training.data, JanusData) and training.data.config.data:
        return [OwnDataPreview(training.checkpoint, training.data)]
    if training.checkpoint is not None:
        return [JanusPreview(training.checkpoint)]
    return [preview_reconstructions] if isinstance(training.model, TokenizerAndDiscriminator) else []


def keep_result(training: Training, folder: Path, part: str = "") -> Path:
    """Exports a trained Janus as a checkpoint folder, or what LoRA added as an adapter's folder, into `part` of the
    run's folder. Other trainings only keep their run's checkpoint."""
    if training.checkpoint is None:
        return folder
    target = folder / part
    if not training.keeps_base:
        adapted, run = training.checkpoint, read_run(folder)
        trained = training.kept_names(run.stages) or ()
        save_adapter(adapted.model, target / "adapter", str(run.task.start), adapted.tasks, trained)
        return target / "adapter"
    checkpoint.save(training.checkpoint, target / "model")
    return target / "model"


def preview_reconstructions(model: nn.Module, step: int, folder: Path) -> dict[str, float]:
    """A preview of held-out pictures above their reconstructions, and the share that the scorer accepts."""
    assert isinstance(model, TokenizerAndDiscriminator)
    tokenizer = model.tokenizer
    scenes = [world.sample_scene("seen", PREVIEW_SEED, i) for i in range(NUM_PREVIEWS * 4)]
    pictures = [world.render(scene) for scene in scenes]
    reconstructions: list[np.ndarray] = []
    for start in range(0, len(pictures), NUM_PREVIEWS):
        reconstructions += map(in_world_size, redrawn(tokenizer, pictures[start : start + NUM_PREVIEWS]))
    rows = [pictures[:8], reconstructions[:8], pictures[8:16], reconstructions[8:16]]
    contact_sheet([Image.fromarray(p) for row in rows for p in row], columns=8).save(folder / f"{step:06d}.png")
    accepted = [judge(scene, picture).accepted for scene, picture in zip(scenes, reconstructions, strict=True)]
    return {"preview_accepted": float(np.mean(accepted))}


def redrawn(tokenizer: ImageTokenizer, pictures: Sequence[np.ndarray]) -> list[Image.Image]:
    """Reconstructions of pictures, uint8 [64, 64, 3], in the tokenizer's size."""
    weight = tokenizer.codebook.weight
    pixels = stack_pictures(pictures, tokenizer.config.image_size_px).to(weight.device, weight.dtype)
    return to_images(tokenizer.decode(tokenizer.encode(pixels)))


class JanusPreview:
    """A preview of held-out prompts, drawn, and of answers about held-out pictures."""

    def __init__(self, trained: Checkpoint):
        self.trained = trained

    def __call__(self, model: nn.Module, step: int, folder: Path) -> dict[str, float]:
        engine = Engine(self.trained)
        scenes = [world.sample_scene("seen", PREVIEW_SEED, i) for i in range(NUM_PREVIEWS)]
        prompts = [grammar.caption(s, stream("seen", PREVIEW_SEED, i, 1)) for i, s in enumerate(scenes)]
        images = engine.generate(prompts, seeds=range(NUM_PREVIEWS))
        contact_sheet(images, columns=8).save(folder / f"{step:06d}.png")
        (folder / f"{step:06d}.txt").write_text("".join(f"{p}\n" for p in prompts))
        accepted = [judge(scene, in_world_size(image)).accepted for scene, image in zip(scenes, images, strict=True)]
        questions = [grammar.question(s, stream("seen", PREVIEW_SEED, i, 2)) for i, s in enumerate(scenes)]
        pictures = [Image.fromarray(world.render(scene)) for scene in scenes]
        asked = [[Message("user", [p, q.text])] for p, q in zip(pictures, questions, strict=True)]
        given = engine.answers(asked, max_new_tokens=ANSWER_TOKENS)
        right = [answer == question.answer for answer, question in zip(given, questions, strict=True)]
        return {"preview_accepted": float(np.mean(accepted)), "preview_answers": float(np.mean(right))}


def draw_all(engine: Engine, prompts: Sequence[Prompt], options: SamplingOptions) -> list[Image.Image]:
    """A drawing of each prompt, some at a time; prompt k has the seed `options.seed + k`."""
    images: list[Image.Image] = []
    for start in range(0, len(prompts), BATCH):
        part = list(prompts[start : start + BATCH])
        images += engine.generate(part, options, seeds=[options.seed + start + k for k in range(len(part))])
    return images


def redraw_all(tokenizer: ImageTokenizer, pictures: Sequence[np.ndarray]) -> list[Image.Image]:
    """Pictures, uint8 [64, 64, 3], through an image tokenizer, some at a time."""
    parts = [redrawn(tokenizer, pictures[start : start + BATCH]) for start in range(0, len(pictures), BATCH)]
    return [image for part in parts for image in part]


def answer_all(engine: Engine, conversations: Sequence[Conversation]) -> list[str]:
    """The answer that each conversation gets, some at a time."""
    answers: list[str] = []
    for start in range(0, len(conversations), BATCH):
        answers += engine.answers(conversations[start : start + BATCH], max_new_tokens=ANSWER_TOKENS)
    return answers


def evaluate_emoji_world(engine: Engine, options: SamplingOptions, n: int, seed: int) -> WorldReport:
    """The report on an engine, drawing with the given options: prompt k of each split with seed `options.seed + k`."""

    def change(asked: Sequence[tuple[Image.Image, str]]) -> list[Image.Image]:
        return draw_all(engine, [Message("user", [picture, words]) for picture, words in asked], options)

    settings = {name: getattr(options, name) for name in ("guidance", "temperature", "top_p", "image_guidance")}
    with torch.inference_mode():
        changes = change if "edit" in engine.tasks else None
        return report_on_world(
            lambda prompts: draw_all(engine, prompts, options),
            lambda conversations: answer_all(engine, conversations),
            lambda pictures: redraw_all(engine.model.generation.tokenizer, pictures),
            n,
            seed,
            settings,
            changes,
        )
