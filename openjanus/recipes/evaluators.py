"""What trainings are watched and judged by: previews as they go, and the report on a finished model (floor 4).

The training loop knows none of this: it is handed callables.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from openjanus.data import grammar, world
from openjanus.data.splits import stream
from openjanus.evaluation.drawing_score import judge
from openjanus.evaluation.world_report import WorldReport, report_on_world
from openjanus.inference.engine import Engine
from openjanus.inference.picture_files import contact_sheet
from openjanus.inference.sampling import SamplingOptions
from openjanus.processing.image import to_images, to_pixels
from openjanus.processing.processor import Conversation, Message
from openjanus.training.janus import JanusObjective, JanusTraining
from openjanus.training.loop import Evaluator, Objective
from openjanus.training.run import Run
from openjanus.training.tokenizer import TokenizerAndDiscriminator, TokenizerTraining
from openjanus.weights import checkpoint
from openjanus.weights.config import Checkpoint

PREVIEW_SEED = 7
NUM_PREVIEWS = 32
BATCH = 50
ANSWER_TOKENS = 16  # of a preview's answer: the world's own have up to 3


def evaluators_of(run: Run) -> Sequence[Evaluator]:
    """The previews that suit what a run trains."""
    if isinstance(run.task, JanusTraining):
        return [JanusPreview(run.task)]
    return [preview_reconstructions] if isinstance(run.task, TokenizerTraining) else []


def keep_result(run: Run, objective: Objective, folder: Path) -> Path:
    """After a training of Janus: the model as a checkpoint folder of its own. Others keep their run's checkpoint."""
    if not isinstance(objective, JanusObjective):
        return folder
    checkpoint.save(objective.checkpoint(), folder / "model")
    return folder / "model"


def preview_reconstructions(model: nn.Module, step: int, folder: Path) -> dict[str, float]:
    """Pictures never trained on, above what the tokenizer makes of them; the share that the scorer accepts."""
    assert isinstance(model, TokenizerAndDiscriminator)
    tokenizer = model.tokenizer
    scenes = [world.sample_scene("seen", PREVIEW_SEED, i) for i in range(NUM_PREVIEWS * 4)]
    pictures = [world.render(scene) for scene in scenes]
    again = []
    for start in range(0, len(pictures), NUM_PREVIEWS):
        pixels = torch.stack([to_pixels(p) for p in pictures[start : start + NUM_PREVIEWS]])
        pixels = pixels.to(next(tokenizer.parameters()).device)
        again += to_images(tokenizer.decode(tokenizer.encode(pixels)))
    pairs = [
        image for i in range(0, 16, 8) for image in [*map(Image.fromarray, pictures[i : i + 8]), *again[i : i + 8]]
    ]
    contact_sheet(pairs, columns=8).save(folder / f"{step:06d}.png")
    accepted = [judge(scene, np.asarray(image)).accepted for scene, image in zip(scenes, again, strict=True)]
    return {"preview_accepted": float(np.mean(accepted))}


class JanusPreview:
    """Draws prompts never trained on and answers questions about pictures never trained on."""

    def __init__(self, task: JanusTraining):
        self.task = task

    def __call__(self, model: nn.Module, step: int, folder: Path) -> dict[str, float]:
        from openjanus.data.sources import world_text_tokenizer
        from openjanus.processing.processor import Processor

        processor = Processor(self.task.processor, world_text_tokenizer())
        engine = Engine(Checkpoint(model, processor, self.task.sampling))  # type: ignore[arg-type]
        scenes = [world.sample_scene("seen", PREVIEW_SEED, i) for i in range(NUM_PREVIEWS)]
        prompts = [grammar.caption(s, stream("seen", PREVIEW_SEED, i, 1)) for i, s in enumerate(scenes)]
        images = engine.generate(prompts, engine.options(seed=PREVIEW_SEED))
        contact_sheet(images, columns=8).save(folder / f"{step:06d}.png")
        (folder / f"{step:06d}.txt").write_text("".join(f"{p}\n" for p in prompts))
        accepted = [judge(scene, np.asarray(image)).accepted for scene, image in zip(scenes, images, strict=True)]
        questions = [grammar.question(s, stream("seen", PREVIEW_SEED, i, 2)) for i, s in enumerate(scenes)]
        pictures = [Image.fromarray(world.render(scene)) for scene in scenes]
        given = answer_all(engine, [[Message("user", [p, q.text])] for p, q in zip(pictures, questions, strict=True)])
        right = [answer == question.answer for answer, question in zip(given, questions, strict=True)]
        return {"preview_accepted": float(np.mean(accepted)), "preview_answers": float(np.mean(right))}


def answer_all(engine: Engine, conversations: Sequence[Conversation]) -> list[str]:
    """The most probable answers, of at most `ANSWER_TOKENS` ids each, in one batch."""
    options = SamplingOptions(temperature=0.0)
    requests = [engine.answer(conversation, options, ANSWER_TOKENS) for conversation in conversations]
    scheduler = engine.scheduler(sum(r.num_rows for r in requests), max(r.num_positions for r in requests))
    for request in requests:
        scheduler.submit(request)
    scheduler.run()
    for request in requests:
        if request.error is not None:
            raise request.error
    text = engine.processor.text
    return [text.decode(int(id) for id in request.ids).removeprefix(" ") for request in requests]


def evaluate_emoji_world(engine: Engine, options: SamplingOptions, n: int, seed: int) -> WorldReport:
    """The report on an engine, drawing with the given options, picture k of prompt k with seed `options.seed + k`."""

    def draw(prompts: Sequence[str]) -> list[Image.Image]:
        images: list[Image.Image] = []
        for start in range(0, len(prompts), BATCH):
            images += engine.generate(prompts[start : start + BATCH], replace(options, seed=options.seed + start))
        return images

    def redraw(pictures: Sequence[np.ndarray]) -> list[Image.Image]:
        tokenizer = engine.model.generation.tokenizer
        where = tokenizer.codebook.weight
        images: list[Image.Image] = []
        for start in range(0, len(pictures), BATCH):
            pixels = torch.stack([to_pixels(p) for p in pictures[start : start + BATCH]]).to(where.device, where.dtype)
            images += to_images(tokenizer.decode(tokenizer.encode(pixels)))
        return images

    settings = {"guidance": options.guidance, "temperature": options.temperature}
    with torch.inference_mode():
        return report_on_world(draw, engine.ask, redraw, n, seed, settings)
