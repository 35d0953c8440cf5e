"""What a training on a user's data tells: held-out losses, drawings of captions, what is trained, memory and time."""

import resource
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from openjanus.eyes.examples import Examples
from openjanus.inference.engine import Engine
from openjanus.picture_files import contact_sheet
from openjanus.processing.message import Conversation
from openjanus.runtime import Runtime
from openjanus.sequence import Batch, Kind
from openjanus.training.janus import JanusData, janus_loss
from openjanus.training.loop import HELD_OUT_LOSS, Training, seconds_per_step
from openjanus.training.metrics import Measures, add_measures
from openjanus.training.run import Run
from openjanus.training.stage import choose_trainable
from openjanus.weights.config import Checkpoint

NUM_EXAMPLES = 64  # of each data, for the losses
NUM_DRAWINGS = 8
NEUTRAL = ("emoji.drawings", "emoji.questions")  # what a user's data hardly is: it shows what is forgotten
NUM_NEUTRAL = 16
PREVIEW_SEED = 7
TILE_PX = 192


class OwnDataPreview:
    """Losses on held-out examples and on a neutral set, and drawings of held-out captions above their pictures. The
    figure `held_out_loss` is the loss that is trained, on all held-out examples: it tells the best weights.

    If nothing is held out, training examples take their place, and the figures are called so.
    """

    def __init__(self, trained: Checkpoint, data: JanusData):
        self.trained = trained
        self.data = replace(data, config=replace(data.config, drop_caption=0.0, drop_view=0.0, image_ids=""))
        self.data.users_data = data.users_data  # read already

    @cached_property
    def batches(self) -> dict[str, list[Batch]]:
        """Examples by the name of their figures."""
        sets: dict[str, list[Batch]] = {}
        for name, users in self.data.users_data.items():
            held_out = users.examples("held_out")
            split, number = ("held_out", len(held_out)) if held_out else ("train", len(users.examples("train")))
            label = split if len(self.data.users_data) == 1 else f"{split}_{name}"
            sets[label] = self._packed(name, split, min(number, NUM_EXAMPLES))
        sets["neutral"] = [batch for name in NEUTRAL for batch in self._packed(name, "seen", NUM_NEUTRAL // 2)]
        return sets

    def _packed(self, name: str, split: str, number: int) -> list[Batch]:
        source = self.data.source(name, split)
        return self.data.packed([self.data.document(name, source, index) for index in range(number)])

    def __call__(self, model: nn.Module, step: int, folder: Path) -> dict[str, float]:
        figures: dict[str, float] = {}
        held_out: list[tuple[float, int]] = []
        device = next(model.parameters()).device
        for label, batches in self.batches.items():
            total: Measures = {}
            for batch in batches:
                loss, measures = _measures(model, batch.to(device), self.data.config.text_weight)
                add_measures(total, measures)
                if label.startswith("held_out"):
                    held_out.append((float(loss), batch.num_targets()))
            figures |= {f"{label}_{name}": float(value) / max(count, 1) for name, (value, count) in total.items()}
        if held_out:
            losses, counts = zip(*held_out, strict=True)
            figures[HELD_OUT_LOSS] = sum(losses) / max(sum(counts), 1)
        if sheet := self._drawings():
            sheet.save(folder / f"{step:06d}.png")
        return figures

    def _drawings(self) -> Image.Image | None:
        """Drawings of the first captions, above the pictures that belong to them."""
        found = [pair for name in self.data.users_data for pair in self._captions(name)][:NUM_DRAWINGS]
        if not found:
            return None
        drawn = Engine(self.trained).generate([list(asked) for asked, _ in found], seeds=range(len(found)))
        targets = [image for _, image in found]
        return contact_sheet([_tile(image) for image in (*drawn, *targets)], columns=len(found))

    def _captions(self, name: str) -> list[tuple[Conversation, Image.Image]]:
        users = self.data.users_data[name]
        split = "held_out" if users.examples("held_out") else "train"
        source, pairs = users.source(split, PREVIEW_SEED), []
        for index in range(min(4 * NUM_DRAWINGS, len(users.examples(split)))):
            *asked, answer = source(index)
            picture = next((part for part in answer.content if isinstance(part, Image.Image)), None)
            if picture is not None and not any(isinstance(p, Image.Image) for m in asked for p in m.content):
                pairs.append((asked, picture))
        return pairs


def _tile(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC)


def _measures(model: nn.Module, batch: Batch, text_weight: float) -> tuple[Tensor, Measures]:
    """The summed loss of a batch, its parts, and how many image ids are the most probable ones."""
    loss, measures = janus_loss(model, batch, 0, text_weight)  # type: ignore[arg-type]
    if Kind.GENERATE in batch.targets:
        hidden: Tensor = model(batch).flatten(0, 1)
        places = batch.targets[Kind.GENERATE]
        right = model.generation.head(hidden[places]).argmax(dim=-1) == batch.target.flatten()[places]  # type: ignore
        measures["image_top1"] = (right.sum(), len(places))
    return loss, measures


@dataclass(frozen=True)
class Estimate:
    """What a run will need here: seconds of a step of each stage, and the peak of memory in bytes so far."""

    seconds: tuple[float, ...]
    num_bytes: int


def estimate(run: Run, training: Training, runtime: Runtime) -> Estimate:
    """Runs two steps of each stage. The model is changed by them."""
    seconds = tuple(seconds_per_step(training, stage, runtime, 2) for stage in run.stages)
    return Estimate(seconds, peak_bytes(runtime))


def peak_bytes(runtime: Runtime) -> int:
    """The most memory that this process has had, on the GPU if there is one."""
    if runtime.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def describe(run: Run, training: Training) -> list[str]:
    """What is trained, on how many examples: a line each."""
    lines = []
    users_data = training.data.users_data if isinstance(training.data, (JanusData, Examples)) else {}
    for name, users in users_data.items():
        num_train, num_held_out = len(users.examples("train")), len(users.examples("held_out"))
        skipped = f", {len(users.faults):,} left out because of faults" if users.faults else ""
        lines.append(f"{name}: {num_train:,} examples to train, {num_held_out:,} held out{skipped}")
    for stage in run.stages:
        chosen = choose_trainable(training.model, stage.trainable)
        counts: dict[str, int] = {}
        for name, p in chosen.items():
            is_lora = name.endswith((".lora_a", ".lora_b"))
            part = ".".join(name.split(".")[: 1 if is_lora else 2]) + (" (LoRA)" if is_lora else "")
            counts[part] = counts.get(part, 0) + p.numel()
        total = sum(p.numel() for p in training.model.parameters())
        parts = ", ".join(f"{part} {count:,}" for part, count in counts.items())
        trained = f"{sum(counts.values()):,} of {total:,} parameters: {parts}"
        lines.append(f"{stage.name}: {stage.num_steps:,} steps train {trained}")
        for name, users in users_data.items():
            if name in stage.mixture:
                epochs = stage.num_steps * stage.mixture[name] / len(users.examples("train"))
                lines.append(f"{stage.name}: {stage.mixture[name]:g} examples of {name} a step, {epochs:.1f} epochs")
    return lines
