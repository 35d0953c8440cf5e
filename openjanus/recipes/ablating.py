"""The experiments of ablations.py as one command: eyes, image ids, a pilot, and every experiment with every seed.

    OUT/eyes/NAME          the runs of the eyes
    OUT/ids/NAME           drawings as ids of each image tokenizer
    OUT/seed0/D            a run, with the model and scores.json
    OUT/results.json       all scores; table.md, differences.md and scores.png are made from it

Every part resumes by itself, so the whole does: what is finished is left as it is. D with the first seed is the pilot:
it must draw and answer well enough before the others are worth their time.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openjanus.config import save as save_json
from openjanus.inference.engine import load
from openjanus.recipes.ablation_scores import Scores, score_answers_of, score_drawings, score_tokenizer
from openjanus.recipes.ablations import Setting, experiment
from openjanus.recipes.evaluators import evaluators_of, keep_result
from openjanus.recipes.pipeline import Part, estimate
from openjanus.recipes.tokenizing import tokenize_source
from openjanus.runtime import Runtime
from openjanus.training import checkpoint
from openjanus.training.janus import JanusTraining, starting_tokenizer
from openjanus.training.run import Run, train

LEAST_DRAWN, LEAST_ANSWERED = 0.6, 0.8  # of the pilot
SCORE_SEED = 1  # of prompts and questions; sampling settings are chosen with another
IDS_SEED = 0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Ablation:
    """What is run: experiments of a setting with some seeds, in a folder. n: prompts and questions of a score."""

    setting: Setting
    folder: Path
    names: Sequence[str]
    seeds: Sequence[int]
    n: int = 300

    @property
    def eyes(self) -> Path:
        return self.folder / "eyes"

    @property
    def ids(self) -> Path:
        return self.folder / "ids"

    def parts_of_eyes(self) -> list[Part]:
        """The runs of the eyes, in order."""
        return [Part(make(str(self.eyes)), self.eyes / name) for name, make in self.setting.eyes.items()]

    def part(self, name: str, seed: int) -> Part:
        """One experiment with one seed."""
        run = experiment(self.setting, name, str(self.eyes), str(self.ids), seed)
        return Part(run, self.folder / f"seed{seed}" / name)

    def parts(self) -> list[Part]:
        """All experiments, the pilot first."""
        order = sorted(self.names, key=lambda name: name != "D")
        return [self.part(name, seed) for seed in self.seeds for name in order]


def is_finished(part: Part) -> bool:
    """Whether a run has made all its steps."""
    newest = checkpoint.latest(part.folder / "checkpoints")
    return newest is not None and int(newest.name) == sum(stage.num_steps for stage in part.run.stages)


def estimated_seconds(ablation: Ablation, runtime: Runtime) -> float:
    """Of all trainings that are left, by a few steps of each kind that are timed here."""
    eyes = [part for part in ablation.parts_of_eyes() if not is_finished(part)]
    by_name = {name: ablation.part(name, ablation.seeds[0]) for name in ablation.names}
    left = {name: sum(not is_finished(ablation.part(name, seed)) for seed in ablation.seeds) for name in by_name}
    wanted = [name for name, count in left.items() if count]
    total = sum(estimate([_without_teacher(part) for part in eyes], runtime))
    return total + sum(
        seconds * left[name]
        for name, seconds in zip(wanted, estimate([by_name[name] for name in wanted], runtime), strict=True)
    )


def _without_teacher(part: Part) -> Part:
    """The run of a semantic tokenizer without its teacher, which may not be there yet."""
    task = part.run.task
    if getattr(task, "teacher", ""):
        task = replace(task, semantic=None, teacher="")
    return Part(replace(part.run, task=task), part.folder)


def run_all(ablation: Ablation, runtime: Runtime, say: Say, stop_after: int | None = None) -> dict[str, Any]:
    """Trains and scores what is left; returns all results, which are also in `results.json`.

    stop_after: steps of each run, to try the way. Raises ValueError if the pilot is not good enough.
    """
    for part in ablation.parts_of_eyes():
        _train(part, runtime, say, stop_after)
    num = ablation.setting.num_drawings if stop_after is None else 8
    for part in ablation.parts():
        _make_ids(ablation.setting, part.run, num, say)
    results: dict[str, Any] = {"settings": {"n": ablation.n, "seeds": list(ablation.seeds)}, "experiments": {}}
    for number, part in enumerate(ablation.parts()):
        scores = _scored(ablation, part, runtime, say, stop_after)
        name = part.folder.name
        if number == 0 and name == "D" and stop_after is None:
            check_pilot(scores, say)
        results["experiments"].setdefault(name, {})[str(part.run.seed)] = scores
        save_json(results, ablation.folder / "results.json")
    return results


def check_pilot(scores: Scores, say: Say) -> None:
    """Raises ValueError if D draws or answers too badly for differences between experiments to show."""
    drawn, answered = scores["drawings"]["seen"]["accepted"], scores["answers"]["seen"]["mean"]["right"]
    line = f"the pilot (D) draws {drawn:.0%} and answers {answered:.0%} right"
    if drawn < LEAST_DRAWN or answered < LEAST_ANSWERED:
        raise ValueError(
            f"{line}; expected {LEAST_DRAWN:.0%} and {LEAST_ANSWERED:.0%}: reduce the world, or train longer"
        )
    say(line)


def _train(part: Part, runtime: Runtime, say: Say, stop_after: int | None) -> None:
    if not is_finished(part):
        say(f"training {part.run.name}, seed {part.run.seed}: {part.folder}")
        trained = train(part.run, part.folder, runtime, evaluators_of, stop_after)
        keep_result(trained, part.folder)


def _make_ids(setting: Setting, run: Run, num: int, say: Say) -> None:
    """The file of drawings as ids that a run needs, unless it is there."""
    assert isinstance(run.task, JanusTraining) and isinstance(run.task.image_ids, str)
    path = Path(run.task.image_ids)
    if not setting.drawings or path.exists() or not any(setting.drawings in stage.mixture for stage in run.stages):
        return
    say(f"drawings as image ids: {path}")
    tokenize_source(starting_tokenizer(run.task), setting.drawings, IDS_SEED, num, path)


def _scored(ablation: Ablation, part: Part, runtime: Runtime, say: Say, stop_after: int | None) -> Scores:
    """The scores of an experiment, which is trained and scored if it was not yet."""
    path = part.folder / "scores.json"
    if path.exists():
        return json.loads(path.read_text("utf-8"))
    _train(part, runtime, say, stop_after)
    engine = load(part.folder / "model", runtime)
    sources = {name for stage in part.run.stages for name in stage.sources}
    scores: Scores = {"parameters": sum(p.numel() for p in engine.model.parameters())}
    if sources & set(ablation.setting.draws):
        scores["drawings"] = score_drawings(engine, engine.options(seed=SCORE_SEED), ablation.n, SCORE_SEED)
        scores["ceiling"] = score_tokenizer(engine.model.generation.tokenizer, ablation.n, SCORE_SEED)
    if sources & set(ablation.setting.understands):
        scores["answers"] = score_answers_of(engine, ablation.n, SCORE_SEED)
    if stop_after is None:
        save_json(scores, path)
    return scores
