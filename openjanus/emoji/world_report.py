"""The evaluation of a model in the emoji world: drawings, reconstructions, answers and edits, split by split.

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
from openjanus.emoji.edits import judge_edit, sample_edit
from openjanus.emoji.splits import stream
from openjanus.emoji.world import Scene, render, sample_scene
from openjanus.processing.message import Conversation, Message

DRAWING_SPLITS = ("seen", "heldout_color", "heldout_pair")
ANSWER_SPLITS = ("seen", "heldout_color", "heldout_pair", "heldout_style")
EDIT_SPLITS = ("seen", "heldout_color", "heldout_pair")
# How a question is asked: as in training of the first model, and as people ask.
FORMS = ("picture first", "words first", "after two pictures")
# The targets are set on these groups of tasks.
GROUPS = {"one object": ("one", "color"), "two objects": ("two", "position", "attribute"), "counting": ("counting",)}

Draw = Callable[[Sequence[str]], Sequence[Image.Image]]
Answer = Callable[[Sequence[Conversation]], Sequence[str]]
Redraw = Callable[[Sequence[np.ndarray]], Sequence[Image.Image]]
Change = Callable[[Sequence[tuple[Image.Image, str]]], Sequence[Image.Image]]


@dataclass
class WorldReport:
    """Results by split; `text` for people, `figures` for programs.

    reconstructions: true pictures through the image tokenizer alone, which no drawing can beat. answers: by split and
    form. edits: by split and kind, and "all".
    """

    settings: dict[str, Any]
    drawings: dict[str, DrawingReport] = field(default_factory=dict)
    reconstructions: dict[str, DrawingReport] = field(default_factory=dict)
    answers: dict[str, dict[str, AnswerScore]] = field(default_factory=dict)
    edits: dict[str, dict[str, Share]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        parts = [", ".join(f"{name} {value}" for name, value in self.settings.items())]
        named = {f"drawings, {split}": report for split, report in self.drawings.items()}
        for split, report in self.reconstructions.items():
            named[f"true pictures through the image tokenizer alone, {split}"] = report
        for title, report in named.items():
            groups = [f"  {name}: {share}" for name, share in grouped(report).items()]
            parts.append("\n".join([f"== {title} ==", format_report(report, {}), *groups]))
        parts.append("== the judges' own error ==\n" + format_error(measured_error()))
        parts += [f"== answers, {split} ==\n{format_answers(scores)}" for split, scores in self.answers.items()]
        for split, shares in self.edits.items():
            lines = [f"{kind:12}{share!s:>32}" for kind, share in shares.items()]
            parts.append("\n".join([f"== edits, {split} ==", *lines]))
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
            "reconstructions": {split: drawn(report) for split, report in self.reconstructions.items()},
            "answers": {
                split: {kind: {"exact": s.exact, "majority": s.majority, "n": s.n} for kind, s in scores.items()}
                for split, scores in self.answers.items()
            },
            "edits": {
                split: {kind: [share.hits, share.n] for kind, share in shares.items()}
                for split, shares in self.edits.items()
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
    draw: Draw,
    answer: Answer,
    redraw: Redraw,
    n: int,
    seed: int,
    settings: dict[str, Any] | None = None,
    change: Change | None = None,
) -> WorldReport:
    """Draws `n` captions, redraws `n` true pictures and answers `n` questions of each split, in each form.

    change: edits pictures, (picture, words) each; None: the model does not.
    """
    if n < 1:
        raise ValueError(f"n is {n}, expected 1 or more")
    report = WorldReport({**(settings or {}), "n": n, "seed": seed})
    for split in DRAWING_SPLITS:
        scenes = _scenes(split, n, seed)
        captions = [grammar.caption(scene, stream(split, seed, i, 1)) for i, scene in enumerate(scenes)]
        report.drawings[split] = score_drawings(
            (scene, in_world_size(image)) for scene, image in zip(scenes, draw(captions), strict=True)
        )
        reconstructions = redraw([render(scene) for scene in scenes])
        report.reconstructions[split] = score_drawings(
            (scene, in_world_size(image)) for scene, image in zip(scenes, reconstructions, strict=True)
        )
    for split in ANSWER_SPLITS:
        for form in FORMS:
            questions = [grammar.question(s, stream(split, seed, i, 2)) for i, s in enumerate(_scenes(split, n, seed))]
            given = answer([_asked(split, seed, i, form) for i in range(n)])
            triples = [(q.kind, said, q.answer) for q, said in zip(questions, given, strict=True)]
            report.answers[f"{split}, {form}"] = score_answers(triples)
    if change is not None:
        report.edits = {split: _score_edits(change, split, n, seed) for split in EDIT_SPLITS}
    return report


def _asked(split: str, seed: int, index: int, form: str) -> Conversation:
    """Question `index` of a split; "after two pictures": two others have been asked and answered before."""
    messages = []
    for number in (index + 1, index + 2, index) if form == "after two pictures" else (index,):
        scene = sample_scene(split, seed, number)
        question = grammar.question(scene, stream(split, seed, number, 2))
        content: list[Image.Image | str] = [Image.fromarray(render(scene)), question.text]
        messages.append(Message("user", content[::-1] if form == "words first" else content))
        messages.append(Message("assistant", question.answer))
    return messages[:-1]


def _score_edits(change: Change, split: str, n: int, seed: int) -> dict[str, Share]:
    edits = [sample_edit(split, seed, index) for index in range(n)]
    changed = change([(Image.fromarray(render(edit.before)), edit.words) for edit in edits])
    shares = {"all": Share()}
    for edit, image in zip(edits, changed, strict=True):
        is_right = not judge_edit(edit, in_world_size(image))
        shares["all"].add(is_right)
        shares.setdefault(edit.kind, Share()).add(is_right)
    return shares


def _scenes(split: str, n: int, seed: int) -> list[Scene]:
    return [sample_scene(split, seed, i) for i in range(n)]
