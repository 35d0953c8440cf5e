"""The evaluation of a model in the emoji world: drawings, reconstructions and answers, split by split.

The model is given as callables, so that it can be a model in training, an engine or a server.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openjanus.emoji import grammar
from openjanus.emoji.answer_score import AnswerScore, format_answers, score_answers
from openjanus.emoji.drawing_score import (
    DrawingReport,
    Share,
    format_error,
    format_report,
    in_world_size,
    measured_error,
    score_drawings,
)
from openjanus.emoji.splits import stream
from openjanus.emoji.world import Scene, render, sample_scene

DRAWING_SPLITS = ("seen", "heldout_color", "heldout_pair")
ANSWER_SPLITS = ("seen", "heldout_color", "heldout_pair", "heldout_style")
# The targets are set on these groups of tasks.
GROUPS = {"one object": ("one", "color"), "two objects": ("two", "position", "attribute"), "counting": ("counting",)}

Draw = Callable[[Sequence[str]], Sequence[Image.Image]]
Ask = Callable[[Image.Image, str], str]
Redraw = Callable[[Sequence[np.ndarray]], Sequence[Image.Image]]


@dataclass
class WorldReport:
    """Results by split; `text` for people, `figures` for programs."""

    settings: dict[str, Any]
    drawings: dict[str, DrawingReport] = field(default_factory=dict)
    reconstructions: DrawingReport | None = None
    answers: dict[str, dict[str, AnswerScore]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        parts = [", ".join(f"{name} {value}" for name, value in self.settings.items())]
        named = {f"drawings, {split}": report for split, report in self.drawings.items()}
        if self.reconstructions is not None:
            named["true pictures through the image tokenizer alone, seen"] = self.reconstructions
        for title, report in named.items():
            groups = [f"  {name}: {share}" for name, share in grouped(report).items()]
            parts.append("\n".join([f"== {title} ==", format_report(report, {}), *groups]))
        parts.append("== the judges' own error ==\n" + format_error(measured_error()))
        parts += [f"== answers, {split} ==\n{format_answers(scores)}" for split, scores in self.answers.items()]
        return "\n\n".join(parts)

    def figures(self) -> dict[str, Any]:
        def drawn(report: DrawingReport) -> dict[str, Any]:
            tasks = {task: [share.hits, share.n] for task, share in report.first.items()}
            second = {task: [share.hits, share.n] for task, share in report.second.items()}
            groups = {name: [share.hits, share.n] for name, share in grouped(report).items()}
            return {"first_judge": tasks, "second_judge": second, "groups": groups}

        return {
            "settings": self.settings,
            "drawings": {split: drawn(report) for split, report in self.drawings.items()},
            "reconstructions": drawn(self.reconstructions) if self.reconstructions is not None else None,
            "answers": {
                split: {kind: {"exact": s.exact, "majority": s.majority, "n": s.n} for kind, s in scores.items()}
                for split, scores in self.answers.items()
            },
        }

    def save(self, path: Path) -> None:
        draft = path.with_name(f".{path.name}.draft")
        draft.write_text(json.dumps(self.figures(), indent=1) + "\n")
        draft.replace(path)


def grouped(report: DrawingReport) -> dict[str, Share]:
    """The first judge's shares, tasks taken together as in `GROUPS`; groups without drawings are left out."""
    groups = {}
    for name, tasks in GROUPS.items():
        shares = [report.first[task] for task in tasks if task in report.first]
        if shares:
            groups[name] = Share(sum(s.hits for s in shares), sum(s.n for s in shares))
    return groups


def report_on_world(
    draw: Draw, ask: Ask, redraw: Redraw, n: int, seed: int, settings: dict[str, Any] | None = None
) -> WorldReport:
    """Draws `n` captions and answers `n` questions of each split, and redraws `n` true pictures."""
    if n < 1:
        raise ValueError(f"n is {n}, expected 1 or more")
    report = WorldReport({**(settings or {}), "n": n, "seed": seed})
    for split in DRAWING_SPLITS:
        scenes = _scenes(split, n, seed)
        captions = [grammar.caption(scene, stream(split, seed, i, 1)) for i, scene in enumerate(scenes)]
        report.drawings[split] = score_drawings(
            (scene, in_world_size(image)) for scene, image in zip(scenes, draw(captions), strict=True)
        )
    scenes = _scenes("seen", n, seed)
    reconstructions = redraw([render(scene) for scene in scenes])
    report.reconstructions = score_drawings(
        (s, in_world_size(image)) for s, image in zip(scenes, reconstructions, strict=True)
    )
    for split in ANSWER_SPLITS:
        triples = []
        for i, scene in enumerate(_scenes(split, n, seed)):
            question = grammar.question(scene, stream(split, seed, i, 2))
            triples.append((question.kind, ask(Image.fromarray(render(scene)), question.text), question.answer))
        report.answers[split] = score_answers(triples)
    return report


def _scenes(split: str, n: int, seed: int) -> list[Scene]:
    return [sample_scene(split, seed, i) for i in range(n)]
