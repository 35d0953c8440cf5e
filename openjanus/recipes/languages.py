"""Drawing in languages never drawn from (arXiv 2410.13848, §4.4), in the reduced world (emoji/languages.py).

Captions to draw are English only. Other languages come as texts and in questions about pictures. Each condition leaves
out some of these signals:

    all          parallel lines, texts of one language, mixed texts, questions
    none         no other language at all: what follows must be at chance
    parallel | monolingual | mixed | questions     only this signal
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from openjanus.config import write_text
from openjanus.emoji import mini
from openjanus.emoji.answer_score import normalised
from openjanus.emoji.drawing_score import in_world_size, judge
from openjanus.emoji.languages import LANGUAGES, LEARNED, LEFT_OUT, NO_COGNATE, ask, mix, say
from openjanus.emoji.splits import stream
from openjanus.inference.engine import Engine
from openjanus.inference.sampling import SamplingOptions
from openjanus.processing.message import Conversation, Message
from openjanus.recipes.ablation_report import cell
from openjanus.recipes.ablations import mini as mini_janus
from openjanus.recipes.evaluators import answer_all, draw_all
from openjanus.sequence import TextSpan, collate
from openjanus.training.janus import JanusTraining
from openjanus.training.run import Run

Scores = dict[str, Any]
SIGNALS = {"parallel": 6.0, "monolingual": 4.0, "mixed": 4.0, "questions": 8.0}  # examples a step
CONDITIONS: dict[str, tuple[str, ...]] = {"all": tuple(SIGNALS), "none": (), **{name: (name,) for name in SIGNALS}}
ENGLISH = {"drawings": 24.0, "english_questions": 6.0, "english": 2.0}
RETRIEVED = 200  # lines
SOURCE = "emoji.languages."


def language_run(name: str, eyes: str, ids: str, seed: int) -> Run:
    """The training of a condition has the stages of the six experiments, with other sources."""
    run = mini_janus(eyes, ids)
    assert isinstance(run.task, JanusTraining) and isinstance(run.task.start, dict) and run.task.model is not None
    body = replace(run.task.model.language_model, vocab_size=1536)
    task = replace(
        run.task,
        start={**run.task.start, "text_tokenizer": "emoji.languages"},
        image_ids=f"{ids}/languages.safetensors",
        model=replace(run.task.model, language_model=body),
    )
    texts = {"english": 16.0, **{signal: 8.0 for signal in CONDITIONS[name] if signal != "questions"}}
    asked = {
        "english_questions": 6.0,
        **{signal: SIGNALS[signal] for signal in CONDITIONS[name] if signal == "questions"},
    }
    mixtures = {
        "language": texts,
        "adapt": {"drawings": 24.0, **asked},
        "unify": {**ENGLISH, **{signal: SIGNALS[signal] for signal in CONDITIONS[name]}},
    }
    mixtures["tune"] = mixtures["unify"]
    stages = tuple(
        replace(stage, mixture={f"{SOURCE}{source}": count for source, count in mixtures[stage.name].items()})
        for stage in run.stages
    )
    return replace(run, name=f"languages.{name}", task=task, stages=stages, seed=seed)


# --- scores


def _judged(prompts: Sequence[str], split: str, seed: int, engine: Engine, options: SamplingOptions) -> Scores:
    """Shares that are accepted: of all, of the objects that are left out or not, and of those that are no cognates; and
    by the caption of another picture."""
    scenes = [mini.mini_scene(split, seed, index) for index in range(len(prompts) + 1)]
    images = [in_world_size(image) for image in draw_all(engine, prompts, options)]
    right = np.array([judge(scene, image).accepted for scene, image in zip(scenes[:-1], images, strict=True)])
    by_another = [judge(scene, image).accepted for scene, image in zip(scenes[1:], images, strict=True)]
    nouns = np.array([scene.items[0].object for scene in scenes[:-1]])
    groups = {"left_out": np.isin(nouns, LEFT_OUT), "not_left_out": ~np.isin(nouns, LEFT_OUT)}
    groups["no_cognate"] = np.isin(nouns, NO_COGNATE)
    shares = {
        name: {"accepted": float(right[g].mean()) if g.any() else None, "n": int(g.sum())} for name, g in groups.items()
    }
    return {"accepted": float(right.mean()), "n": len(right), "by_another": float(np.mean(by_another)), **shares}


@torch.inference_mode()
def score_languages(engine: Engine, run: Run, n: int) -> Scores:
    """n drawings and n questions of each language, and whether a middle layer finds the English line of a line."""
    seed = 1
    options = engine.options(seed=seed)
    scores: Scores = {"drawings": {}, "heldout_color": {}, "mixed": {}, "answers": {}}
    for split, part in (("seen", "drawings"), ("heldout_color", "heldout_color")):
        for language in LANGUAGES:
            prompts = [say(language, mini.mini_scene(split, seed, index)) for index in range(n)]
            scores[part][language] = _judged(prompts, split, seed, engine, options)
    for language in LEARNED:
        scenes = [mini.mini_scene("seen", seed, index) for index in range(n)]
        prompts = [mix(language, scene, stream("seen", seed, i, 18)) for i, scene in enumerate(scenes)]
        scores["mixed"][language] = _judged(prompts, "seen", seed, engine, options)
    for language in LANGUAGES:
        scores["answers"][language] = _answered(engine, language, n, seed)
    scores["retrieval"] = {language: retrieved(engine, language, min(n, RETRIEVED), seed) for language in LANGUAGES[1:]}
    return scores


def _answered(engine: Engine, language: str, n: int, seed: int) -> float:
    asked: list[Conversation] = []
    answers: list[str] = []
    for index in range(n):
        kind = mini.KINDS[index % len(mini.KINDS)]
        scene = mini.mini_scene("seen", seed, index)
        question, answer = ask(language, scene, stream("seen", seed, index, 19), kind)
        picture = Image.fromarray(mini.pictures("seen", seed)(index))
        asked.append([Message("user", [picture, question])])
        answers.append(answer)
    said = answer_all(engine, asked)
    return float(np.mean([normalised(a) == normalised(b) for a, b in zip(said, answers, strict=True)]))


def retrieved(engine: Engine, language: str, n: int, seed: int) -> float:
    """The share of lines whose nearest English line, by the mean hidden state of the middle layer, says the same; the
    mean of each language is taken away first. Chance is about 1 / n."""
    scenes = {say("en", scene): scene for scene in (mini.mini_scene("seen", seed, i) for i in range(n))}
    lines = {code: [_middle(engine, say(code, scene)) for scene in scenes.values()] for code in ("en", language)}
    here, there = (torch.stack(lines[code]) for code in (language, "en"))
    here, there = (nn.functional.normalize(x - x.mean(dim=0), dim=1) for x in (here, there))
    nearest = (here @ there.T).argmax(dim=1)
    return float((nearest == torch.arange(len(nearest), device=nearest.device)).float().mean())


def _middle(engine: Engine, words: str) -> Tensor:
    """The mean hidden state of a text after half of the layers."""
    body, text = engine.model.language_model, engine.processor.text
    begin = [] if text.bos_id is None else [text.bos_id]
    found: list[Tensor] = []
    layer = body.layers[len(body.layers) // 2 - 1]
    hook = layer.register_forward_hook(lambda module, inputs, output: found.append(output))
    try:
        engine.model(collate([[TextSpan([*begin, *text.encode(words)])]]).to(engine.device))
    finally:
        hook.remove()
    return found[0][0, len(begin) :].float().mean(dim=0)


def check_english(scores: Scores) -> str:
    """A line about the pilot. Raises ValueError if it does not draw well enough in English."""
    drawn = scores["drawings"]["en"]["accepted"]
    line = f"the pilot draws {drawn:.0%} right in English"
    if drawn < 0.6:
        raise ValueError(f"{line}; expected 60%: reduce the world, or train longer")
    return line


# --- table

NAMES = {
    "en": "English",
    "cipher": "cipher",
    "de": "German",
    "zh": "Chinese",
    "emoji": "emoji",
    "unseen": "unseen cipher",
}


def write_languages(results: dict[str, Any], folder: Path) -> list[Path]:
    """Writes table.md; returns its path."""
    path = folder / "table.md"
    write_text(path, table(results) + "\n")
    return [path]


def table(results: dict[str, Any]) -> str:
    """Markdown: drawings accepted in each language, percent, a row for each condition and each way to look at `all`."""
    titles = ("condition", *(NAMES[code] for code in LANGUAGES), "seeds")
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]

    def row(title: str, runs: Sequence[Scores], part: str, group: str = "", field: str = "accepted") -> None:
        cells = []
        for code in LANGUAGES:
            found = [scores[part].get(code) for scores in runs]
            found = [value.get(group) if group and value else value for value in found]
            numbers = [value.get(field) if isinstance(value, dict) else value for value in found]
            cells.append(cell([100 * number for number in numbers if number is not None]))
        lines.append(f"| {title} | " + " | ".join(cells) + f" | {len(runs)} |")

    for name, by_seed in results["experiments"].items():
        row(f"{name}: drawn", list(by_seed.values()), "drawings")
    if runs := list(results["experiments"].get("all", {}).values()):
        row("all: by the caption of another picture", runs, "drawings", field="by_another")
        row("all: objects left out of parallel and mixed lines", runs, "drawings", "left_out")
        row("all: the other objects", runs, "drawings", "not_left_out")
        row("all: objects without German cognates", runs, "drawings", "no_cognate")
        row("all: held-out colours", runs, "heldout_color")
        row("all: English with words of the language", runs, "mixed")
        row("all: questions answered", runs, "answers")
    for name, by_seed in results["experiments"].items():
        row(f"{name}: English line found by a middle layer", list(by_seed.values()), "retrieval")
    return "\n".join(lines)
