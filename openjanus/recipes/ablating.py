"""Controlled experiments as one command: eyes, image ids, a pilot, and every experiment with every seed.

    OUT/eyes/NAME          the runs of the eyes
    OUT/ids/NAME           drawings as ids of each image tokenizer
    OUT/seed0/D            a run, with the model and scores.json
    OUT/results.json       all scores; the table and the plot are made from it

Every part resumes by itself, so the whole does: what is finished is left as it is. One experiment with the first seed
is the pilot: it must draw and answer well enough before the others are worth their time.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from openjanus.config import save as save_json
from openjanus.inference.engine import Engine, load
from openjanus.recipes import ablation_report, languages
from openjanus.recipes.ablation_scores import Scores, check_pilot, score_experiment
from openjanus.recipes.ablations import EXPERIMENTS, SETTINGS, STAGES, Setting, experiment
from openjanus.recipes.evaluators import keep_result
from openjanus.recipes.pipeline import Part, estimate
from openjanus.recipes.tokenizing import tokenize_source
from openjanus.runtime import Runtime
from openjanus.training import checkpoint
from openjanus.training.janus import JanusTraining, starting_tokenizer
from openjanus.training.run import Run, train

IDS_SEED = 0
Say = Callable[[str], None]
Results = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """A set of experiments that belong together.

    eyes: the trainings before, by name and in order; each gets the folder of the eyes. names: of the experiments, and
    which of them are run if none is named (`usual`). run: the training of an experiment, from its name, the folders of
    the eyes and of the ids, and a seed. pilot: the experiment that comes first. check: a line about its scores; raises
    ValueError if they are too low. score: of an engine, its run and n. table: the results as Markdown. write: the
    results into files, whose paths it gives. drawings: the source that becomes ids in advance, and how many of it.
    """

    eyes: Mapping[str, Callable[[str], Run]]
    names: Sequence[str]
    usual: Sequence[str]
    run: Callable[[str, str, str, int], Run]
    pilot: str
    check: Callable[[Scores], str]
    score: Callable[[Engine, Run, int], Scores]
    table: Callable[[Results], str]
    write: Callable[[Results, Path], list[Path]]
    drawings: str
    num_drawings: int


def plan_of(setting: Setting) -> Plan:
    """The six experiments of the paper at a size."""
    return Plan(
        setting.eyes,
        names=(*EXPERIMENTS, *STAGES),
        usual=tuple(EXPERIMENTS),
        run=partial(experiment, setting),
        pilot="D",
        check=check_pilot,
        score=partial(score_experiment, setting),
        table=ablation_report.table,
        write=partial(ablation_report.write_reports, setting),
        drawings=setting.drawings,
        num_drawings=setting.num_drawings,
    )


MINI_EYES = SETTINGS["mini"].eyes
PLANS: dict[str, Plan] = {name: plan_of(setting) for name, setting in SETTINGS.items() if setting.drawings}
PLANS["languages"] = Plan(
    {name: MINI_EYES[name] for name in ("tokenizer", "encoder")},
    names=tuple(languages.CONDITIONS),
    usual=tuple(languages.CONDITIONS),
    run=languages.language_run,
    pilot="all",
    check=languages.check_english,
    score=languages.score_languages,
    table=languages.table,
    write=languages.write_languages,
    drawings="emoji.languages.drawings",
    num_drawings=SETTINGS["mini"].num_drawings,
)


@dataclass(frozen=True)
class Ablation:
    """Some experiments of a plan, each with some seeds, in a folder. n: prompts and questions of a score."""

    plan: Plan
    folder: Path
    names: Sequence[str]
    seeds: Sequence[int]
    n: int = 300

    @property
    def _eyes(self) -> str:
        return str(self.folder / "eyes")

    def parts_of_eyes(self) -> list[Part]:
        """The runs of the eyes, in order."""
        return [Part(make(self._eyes), Path(self._eyes) / name) for name, make in self.plan.eyes.items()]

    def part(self, name: str, seed: int) -> Part:
        """One experiment with one seed."""
        run = self.plan.run(name, self._eyes, str(self.folder / "ids"), seed)
        return Part(run, self.folder / f"seed{seed}" / name)

    def parts(self) -> list[Part]:
        """All experiments, the pilot first."""
        order = sorted(self.names, key=lambda name: name != self.plan.pilot)
        return [self.part(name, seed) for seed in self.seeds for name in order]


def is_finished(part: Part) -> bool:
    """True if a run has made all its steps."""
    newest = checkpoint.latest(part.folder / "checkpoints")
    return newest is not None and int(newest.name) == sum(stage.num_steps for stage in part.run.stages)


def estimated_seconds(ablation: Ablation, runtime: Runtime) -> float:
    """Of all trainings that are left, by a few steps of each kind that are timed here."""
    eyes = [_without_teacher(part) for part in ablation.parts_of_eyes() if not is_finished(part)]
    left = {name: 0 for name in ablation.names}
    for part in ablation.parts():
        left[part.folder.name] += not is_finished(part)
    wanted = [name for name, count in left.items() if count]
    seconds = estimate([ablation.part(name, ablation.seeds[0]) for name in wanted], runtime)
    total = sum(estimate(eyes, runtime))
    return total + sum(one * left[name] for name, one in zip(wanted, seconds, strict=True))


def _without_teacher(part: Part) -> Part:
    """The run of a semantic tokenizer without its teacher, which may not be there yet."""
    task = part.run.task
    if getattr(task, "teacher", ""):
        task = replace(task, semantic=None, teacher="")
    return Part(replace(part.run, task=task), part.folder)


def run_all(ablation: Ablation, runtime: Runtime, say: Say, stop_after: int | None = None) -> Results:
    """Trains and scores what is left; returns all results, which are also in `results.json`.

    stop_after: steps of each run, to try the way. Raises ValueError if the pilot is not good enough.
    """
    plan = ablation.plan
    for part in ablation.parts_of_eyes():
        _train(part, runtime, say, stop_after)
    num = plan.num_drawings if stop_after is None else 8
    for part in ablation.parts():
        _make_ids(plan, part.run, num, say)
    results: Results = {"settings": {"n": ablation.n, "seeds": list(ablation.seeds)}, "experiments": {}}
    for number, part in enumerate(ablation.parts()):
        scores = _scored(ablation, part, runtime, say, stop_after)
        name = part.folder.name
        if number == 0 and name == plan.pilot and stop_after is None:
            say(plan.check(scores))
        results["experiments"].setdefault(name, {})[str(part.run.seed)] = scores
        save_json(results, ablation.folder / "results.json")
    return results


def _train(part: Part, runtime: Runtime, say: Say, stop_after: int | None) -> None:
    if not is_finished(part):
        say(f"training {part.run.name}, seed {part.run.seed}: {part.folder}")
        trained = train(part.run, part.folder, runtime, stop_after=stop_after)  # the previews are of the whole world
        keep_result(trained, part.folder)


def _make_ids(plan: Plan, run: Run, num: int, say: Say) -> None:
    """The file of drawings as ids that a run needs, unless it is there."""
    assert isinstance(run.task, JanusTraining) and isinstance(run.task.image_ids, str)
    path = Path(run.task.image_ids)
    if not path.exists() and any(plan.drawings in stage.mixture for stage in run.stages):
        say(f"drawings as image ids: {path}")
        tokenize_source(starting_tokenizer(run.task), plan.drawings, IDS_SEED, num, path)


def _scored(ablation: Ablation, part: Part, runtime: Runtime, say: Say, stop_after: int | None) -> Scores:
    """The scores of an experiment, which is trained and scored if it was not yet."""
    path = part.folder / "scores.json"
    if path.exists():
        return json.loads(path.read_text("utf-8"))
    _train(part, runtime, say, stop_after)
    scores = ablation.plan.score(load(part.folder / "model", runtime), part.run, ablation.n)
    if stop_after is None:
        save_json(scores, path)
    return scores
