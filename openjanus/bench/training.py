"""A training step of openjanus beside one of transformers: the same conversations about pictures, the same weights.

    documents ─► ours: packed into rows, logits at answers only      ─► loss, gradients, AdamW
              └► peer: padded to the longest, logits at all places   ─► loss, gradients, AdamW

transformers' Janus has no loss for drawing, so the step is one of understanding. Both sides compute under autocast,
with parameters in float32, and must find the same loss. The useful work of a step (openjanus/flops.py) is counted once,
for both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from openjanus.bench.measure import Remote, synchronise
from openjanus.bench.shapes import SHAPES, empty_checkpoint
from openjanus.flops import LARGE, product_speeds, step_flops
from openjanus.machine import keep_freed_memory
from openjanus.model.image_tokenizer import ImageTokenizerConfig
from openjanus.model.janus import Janus, JanusConfig
from openjanus.model.siglip_eye import SigLIPEyeConfig
from openjanus.model.vq_eye import VQEyeConfig
from openjanus.sequence import Document, TextSpan, UnderstandSpan, num_tokens, pack
from openjanus.source import Compute
from openjanus.training.janus import JanusTraining, janus_training
from openjanus.training.loop import MANY_PARAMETERS, _train_step
from openjanus.training.stage import Stage, choose_trainable, make_optimizer
from openjanus.weights import checkpoint as checkpoints
from openjanus.weights.hub import find_checkpoint

STAGE = Stage("tune", 1000, 1e-5, {"made": 1}, ("*", "!generation.*"), weight_decay=0.1)
QUESTION, ANSWER, SPREAD = 1 / 24, 1 / 6, 0.9  # medians, in lengths of a picture, and the spread of their logarithms
SMALL = ImageTokenizerConfig(64, 32, (1, 1, 1, 1), 1, 64, 1024)


@dataclass(frozen=True)
class Case:
    """num_layers: of the body and of the encoder; 0: as published. examples: conversations of a step."""

    shape: str
    compute: Compute
    num_layers: int = 4
    examples: int = 4
    row_tokens: int = 2048
    compile: bool = False

    @cached_property
    def config(self) -> JanusConfig:
        """The shape, with fewer layers. That of the bundled model has an image tokenizer that transformers knows, too;
        the step does not use it."""
        if self.shape == "nano":
            c = checkpoints.load(find_checkpoint("nano")).config.model
            body = replace(c.language_model, vocab_size=1536)  # transformers' form has some more words
            return replace(c, language_model=body, generation=VQEyeConfig(SMALL, 192))
        c = SHAPES[self.shape]
        if not self.num_layers:
            return c
        assert isinstance(c.understanding, SigLIPEyeConfig)
        encoder = replace(c.understanding.encoder, num_layers=self.num_layers)
        body = replace(c.language_model, num_layers=self.num_layers)
        return replace(c, language_model=body, understanding=replace(c.understanding, encoder=encoder))


def documents(c: JanusConfig, examples: int, step: int) -> list[Document]:
    """Conversations of a step: a picture, a question and a supervised answer. Lengths are log-normal, as those of
    LLaVA's instructions about are: many short answers, and few long ones."""
    rng, F = np.random.default_rng([step, 1]), c.num_features
    side = c.understanding_size_px

    def words(share: float) -> list[int]:
        length = int(np.clip(rng.lognormal(math.log(share * F), SPREAD), 3, F))
        return rng.integers(20, min(c.language_model.vocab_size, 1000), length).tolist()

    made: list[Document] = []
    for _ in range(examples):
        pixels = torch.from_numpy(rng.uniform(-1, 1, (3, side, side)).astype(np.float32))
        made.append(
            [TextSpan([1]), UnderstandSpan(pixels, F), TextSpan(words(QUESTION)), TextSpan(words(ANSWER), True)]
        )
    return made


def shape_of(c: JanusConfig) -> Janus:
    """The model without weights, with what the step trains."""
    with torch.device("meta"):
        model = Janus(c)
    choose_trainable(model, STAGE.trainable)
    return model


class TrainingSide(Protocol):
    """One loaded implementation. `step(number)` trains on the documents of that number; returns the loss before it."""

    def step(self, number: int) -> float: ...


class Ours:
    """openjanus: the loop's own step. Batches are made before, as the loop does while a step runs."""

    def __init__(self, case: Case, folder: Path, num_steps: int):
        self.case, self.runtime = case, case.compute.runtime()
        self.device = self.runtime.device
        start = checkpoints.load(folder, dtype=torch.float32)
        config = JanusTraining(str(folder), row_tokens=case.row_tokens, micro_batch_rows=1024, compile=case.compile)
        self.training = janus_training(config, 0, start)
        self.training.model.to(self.device)
        if sum(p.numel() for p in self.training.model.parameters()) > MANY_PARAMETERS:  # as the loop does
            keep_freed_memory()
        self.trainable = choose_trainable(self.training.model, STAGE.trainable)
        self.optimizer = make_optimizer(STAGE, self.trainable)
        data: Any = self.training.data
        self.made = [data.packed(documents(case.config, case.examples, number)) for number in range(num_steps)]

    def step(self, number: int) -> float:
        made, optimizer = self.made[number], self.optimizer
        measures, _ = _train_step(self.training, STAGE, number, number, made, self.trainable, optimizer, self.runtime)
        loss, count = measures["loss"]
        synchronise(self.device)
        return float(loss) / count


class Transformers:
    """transformers' JanusForConditionalGeneration, with its own loss, as its Trainer computes with `bf16=True`."""

    def __init__(self, case: Case, folder: Path, num_steps: int):
        from transformers import JanusForConditionalGeneration

        self.case, self.runtime = case, case.compute.runtime()
        self.device = self.runtime.device
        self.model = JanusForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).to(self.device).train()
        understands = ("model.vision_model.", "model.aligner.", "model.language_model.", "lm_head.")
        named = list(self.model.named_parameters())
        for name, p in named:
            p.requires_grad_(name.startswith(understands))
        self.trainable = {name: p for name, p in named if p.requires_grad}
        self.optimizer = make_optimizer(STAGE, self.trainable)
        self.made = [self._padded(documents(case.config, case.examples, number)) for number in range(num_steps)]

    def _padded(self, given: Sequence[Document]) -> dict[str, torch.Tensor]:
        longest, image_id = max(map(num_tokens, given)), self.model.config.image_token_id
        ids, labels = torch.zeros(len(given), longest, dtype=torch.int64), torch.full((len(given), longest), -100)
        attended, pixels = torch.zeros_like(ids), []
        for row, document in enumerate(given):
            at = 0
            for span in document:
                length = num_tokens([span])
                if isinstance(span, TextSpan):
                    ids[row, at : at + length] = torch.tensor(span.ids)
                    if span.loss:
                        labels[row, at : at + length] = ids[row, at : at + length]
                elif isinstance(span, UnderstandSpan):
                    ids[row, at : at + length] = image_id
                    pixels.append(span.pixels)
                at += length
            attended[row, :at] = 1
        return {"input_ids": ids, "attention_mask": attended, "labels": labels, "pixel_values": torch.stack(pixels)}

    def step(self, number: int) -> float:
        runtime = self.runtime
        batch = {name: tensor.to(self.device) for name, tensor in self.made[number].items()}
        with torch.autocast(self.device.type, runtime.dtype, enabled=runtime.dtype != torch.float32):
            loss = self.model(**batch, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(list(self.trainable.values()), STAGE.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        synchronise(self.device)
        return float(loss.detach())


@dataclass
class Result:
    """For each side: the seconds and the loss of each step, and the peak of its memory in bytes."""

    case: Case
    seconds: dict[str, list[float]]
    losses: dict[str, list[float]]
    peak: dict[str, int]
    flops: list[int]
    answers: list[int]
    products: float
    large_product: float

    def tokens_per_second(self, side: str) -> float:
        """Supervised tokens a second: all of them, in the median time of a step."""
        return sum(self.answers) / len(self.answers) / median(self.seconds[side])

    def mfu(self, side: str) -> float:
        """Useful FLOPs a second, as a share of those of plain products of the model's own shapes."""
        return sum(self.flops) / len(self.flops) / median(self.seconds[side]) / self.products


SIDES = {"openjanus": Ours, "transformers": Transformers}


def measure(case: Case, versus: str, num_steps: int, rounds: int, folder: Path) -> Result:
    """Times `num_steps` steps of each side in each round. Only one side is in memory at a time; the sides take turns.

    Before them, each runs one step that is not timed, and with `compile` two. folder: for the weights, that both read.
    """
    _write_start(case, folder)
    names = ["openjanus", versus] if versus else ["openjanus"]
    untimed = 3 if case.compile else 1
    result = Result(case, {n: [] for n in names}, {n: [] for n in names}, dict.fromkeys(names, 0), [], [], 0.0, 0.0)
    given = [documents(case.config, case.examples, number) for number in range(untimed, untimed + num_steps)]
    model = shape_of(case.config)
    result.flops = [step_flops(model, [pack(each, case.row_tokens)]) for each in given]
    sizes = sum(map(num_tokens, given[0])), case.examples * case.config.num_features
    result.answers = [sum(len(s.ids) for d in each for s in d if isinstance(s, TextSpan) and s.loss) for each in given]
    runtime, speeds = case.compute.runtime(), []
    for number in range(rounds):
        speeds.append(product_speeds(model, *sizes, runtime))
        for name in names[:: -1 if number % 2 else 1]:
            side = Remote(partial(SIDES[name], case, folder, untimed + num_steps))
            for step in range(untimed + num_steps):
                seconds, loss = side.call("step", step)
                if step >= untimed:
                    result.seconds[name].append(seconds)
                result.losses[name].append(loss)
            result.peak[name] = max(result.peak[name], side.close())
    speeds.append(product_speeds(model, *sizes, runtime))
    result.products, result.large_product = (median(each) for each in zip(*speeds, strict=True))
    return result


def _write_start(case: Case, folder: Path) -> None:
    """Random weights of the shape, in the format that both sides read."""
    start = empty_checkpoint(case.config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start.model = Janus(case.config)
    checkpoints.save(start, folder, torch.bfloat16, form="transformers")


def table(result: Result) -> str:
    """A line for each side, what differs, and what the machine reaches in plain products."""
    case, c = result.case, result.case.config
    assert isinstance(c.understanding, SigLIPEyeConfig)
    depth = f"{c.language_model.num_layers} layers in the body and {c.understanding.encoder.num_layers} in the encoder"
    lines = [f"{case.shape}, {depth}, {case.examples} conversations a step, {case.compute.weights}"]
    for name, seconds in result.seconds.items():
        spread = f"{min(seconds):.3g} to {max(seconds):.3g}"
        lines.append(
            f"  {name:12} {median(seconds):.3g} s a step ({spread}), {result.tokens_per_second(name):,.0f} supervised "
            f"tokens/s, MFU {result.mfu(name):.0%}, peak {result.peak[name] / 1e9:.2f} GB, "
            f"loss {result.losses[name][0]:.5f}"
        )
    if "transformers" in result.seconds:
        ratio = result.tokens_per_second("openjanus") / result.tokens_per_second("transformers")
        less = 1 - result.peak["openjanus"] / max(result.peak["transformers"], 1)
        lines.append(f"  {ratio:.2f} times the supervised tokens/s of transformers, {less:.0%} less memory")
    lines.append(
        f"  plain products of these shapes: {result.products / 1e9:,.0f} GFLOP/s, of {LARGE} x {LARGE} matrices: "
        f"{result.large_product / 1e9:,.0f}"
    )
    return "\n".join(lines)
