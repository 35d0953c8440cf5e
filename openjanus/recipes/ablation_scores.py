"""The scores of one experiment in the reduced world (emoji/mini.py), and the ceilings and chances beside them."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openjanus.emoji import mini
from openjanus.emoji.answer_score import score_answers
from openjanus.emoji.drawing_score import in_world_size, judge
from openjanus.eyes.feature_distance import features_of, kernel_distance
from openjanus.inference.engine import Engine
from openjanus.inference.sampling import SamplingOptions
from openjanus.model.image_tokenizer import ImageTokenizer
from openjanus.processing.message import Message
from openjanus.recipes.ablations import Setting
from openjanus.recipes.evaluators import answer_all, draw_all, redraw_all
from openjanus.training.run import Run

Scores = dict[str, Any]
SCORE_SEED = 1  # of prompts and questions; sampling settings are chosen with another
LEAST_DRAWN, LEAST_ANSWERED = 0.6, 0.8  # of the pilot


def score_experiment(setting: Setting, engine: Engine, run: Run, n: int) -> Scores:
    """The scores of what a run was trained to do."""
    sources = {name for stage in run.stages for name in stage.sources}
    scores: Scores = {"parameters": sum(p.numel() for p in engine.model.parameters())}
    if sources & set(setting.draws):
        scores["drawings"] = score_drawings(engine, engine.options(seed=SCORE_SEED), n, SCORE_SEED)
        scores["ceiling"] = score_tokenizer(engine.model.generation.tokenizer, n, SCORE_SEED)
    if sources & set(setting.understands):
        scores["answers"] = score_answers_of(engine, n, SCORE_SEED)
    return scores


def check_pilot(scores: Scores) -> str:
    """A line about D. Raises ValueError if it draws or answers too badly for differences between experiments to
    show."""
    drawn, answered = scores["drawings"]["seen"]["accepted"], scores["answers"]["seen"]["mean"]["right"]
    line = f"the pilot (D) draws {drawn:.0%} and answers {answered:.0%} right"
    if drawn < LEAST_DRAWN or answered < LEAST_ANSWERED:
        wanted = f"{LEAST_DRAWN:.0%} and {LEAST_ANSWERED:.0%}"
        raise ValueError(f"{line}; expected {wanted}: reduce the world, or train longer")
    return line


def accepted(split: str, seed: int, images: Sequence[np.ndarray], shift: int = 0) -> float:
    """The share of drawings that the scorer accepts. shift: judge each by a later caption instead of its own."""
    scenes = [mini.mini_scene(split, seed, index + shift) for index in range(len(images))]
    return float(np.mean([judge(scene, image).accepted for scene, image in zip(scenes, images, strict=True)]))


def _true_pictures(split: str, seed: int, n: int) -> list[np.ndarray]:
    return [mini.pictures(split, seed)(index) for index in range(n)]


@lru_cache(maxsize=8)
def _true_features(split: str, seed: int, n: int) -> Tensor:
    """Their features [n, 1280], which all experiments are compared with."""
    return features_of(_true_pictures(split, seed, n))


@torch.inference_mode()
def score_drawings(engine: Engine, options: SamplingOptions, n: int, seed: int) -> Scores:
    """n drawings of each split: the share that is accepted, also by a caption of another picture (chance), and the
    distance of the features from those of the true pictures."""
    scores: Scores = {}
    for split in mini.SPLITS:
        prompts = [mini.mini_caption(split, seed, index) for index in range(n)]
        images = [in_world_size(image) for image in draw_all(engine, prompts, options)]
        scores[split] = {
            "accepted": accepted(split, seed, images),
            "chance": accepted(split, seed, images, shift=1),
            "distance": kernel_distance(features_of(images), _true_features(split, seed, n)),
            "n": n,
        }
    return scores


@torch.inference_mode()
def score_answers_of(engine: Engine, n: int, seed: int) -> Scores:
    """n questions of each kind and split: the share that is right, and that of the most frequent answer."""
    scores: Scores = {}
    for split in mini.SPLITS:
        triples = []
        for kind in mini.KINDS:
            questions = [mini.mini_question(split, seed, index, kind) for index in range(n)]
            pictures = [Image.fromarray(mini.pictures(split, seed)(index)) for index in range(n)]
            asked = [[Message("user", [p, q.text])] for p, q in zip(pictures, questions, strict=True)]
            answers = answer_all(engine, asked)
            triples += [(kind, said, q.answer) for said, q in zip(answers, questions, strict=True)]
        kinds = score_answers(triples)
        scores[split] = {kind: {"right": s.exact, "majority": s.majority, "n": s.n} for kind, s in kinds.items()}
    return scores


@torch.inference_mode()
def score_tokenizer(tokenizer: ImageTokenizer, n: int, seed: int) -> Scores:
    """The scores of n true pictures of each split after the image tokenizer: no drawing of its ids can beat them."""
    scores: Scores = {}
    for split in mini.SPLITS:
        images = [in_world_size(image) for image in redraw_all(tokenizer, _true_pictures(split, seed, n))]
        distance = kernel_distance(features_of(images), _true_features(split, seed, n))
        scores[split] = {"accepted": accepted(split, seed, images), "distance": distance, "n": n}
    return scores
