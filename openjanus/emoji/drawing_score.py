"""Checks whether a drawing matches its caption: exact verdicts, six tasks as in GenEval (arXiv 2310.11513, section 3).

    (scene, picture) -> read_scene(picture) -> verdict against scene.named         first judge: templates
                              \\-> relabel(boxes) -> verdict against scene.named    second judge: a classifier

Both judges share only the boxes and the rules. A judge makes errors too, so its error on true pictures and on
every kind of spoilt picture (corruption.py) is printed beside every score.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path

import numpy as np
from PIL import Image

from openjanus.emoji.classifier import relabel
from openjanus.emoji.corruption import CORRUPTIONS, blurred, corrupted
from openjanus.emoji.scene_reader import MAX_CLUTTER_PX, FoundItem, Reading, read_scene
from openjanus.emoji.splits import TASKS
from openjanus.emoji.world import CANVAS_PX, Scene, render, sample_scene

# Measured sizes that count as the word; the world draws 28, 40 and 52.
SIZE_RANGES_PX = {"small": (0, 33), "medium": (34, 46), "big": (47, CANVAS_PX)}
# Tolerances of a place, from the edge and from the middle: 2 px more than in the world.
EDGE_SLACK_PX, MIDDLE_SLACK_PX = 6, 4
# Of a relation: least distance of the centres along its axis, largest distance across; the world has 32 and 8.
MIN_ALONG_PX, MAX_ACROSS_PX = 20, 16
MEASURED_ERROR = Path(__file__).parent / "assets" / "scorer_error.json"


@dataclass(frozen=True)
class Verdict:
    accepted: bool
    reasons: tuple[str, ...]  # "what: details", empty when accepted
    style_right: bool  # of all objects found; does not affect acceptance
    reading: Reading


@dataclass
class Share:
    """A share, hits of n, with its 95% Wilson interval."""

    hits: int = 0
    n: int = 0

    def add(self, hit: bool) -> None:
        self.hits += hit
        self.n += 1

    @property
    def value(self) -> float:
        return self.hits / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        if not self.n:
            return 0.0, 1.0
        z, p = 1.96, self.value
        middle = (p + z * z / (2 * self.n)) / (1 + z * z / self.n)
        half = z / (1 + z * z / self.n) * sqrt(p * (1 - p) / self.n + z * z / (4 * self.n**2))
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        if not self.n:
            return "  --"
        low, high = self.interval
        return f"{100 * self.value:5.1f}% [{100 * low:.1f}, {100 * high:.1f}] n={self.n}"


def in_world_size(image: Image.Image) -> np.ndarray:  # uint8 [64, 64, 3]
    """A drawing of any size, resized for the judges."""
    size = (CANVAS_PX, CANVAS_PX)
    return np.asarray(image if image.size == size else image.resize(size, Image.Resampling.LANCZOS))


def judge(scene: Scene, image: np.ndarray) -> Verdict:  # uint8 [64, 64, 3]
    """The first judge: templates only."""
    return verdict(scene, read_scene(image))


def second_judge(scene: Scene, image: np.ndarray, reading: Reading) -> Verdict:
    """The same rules and boxes, with objects and colours from the learned classifier."""
    return verdict(scene, relabel(image, reading))


def verdict(scene: Scene, reading: Reading) -> Verdict:
    """Checks exactly what the caption states: always the objects and their number, and what scene.named lists."""
    named, found = scene.named, reading.items
    reasons = []
    wanted, seen = Counter(item.object for item in scene.items), Counter(item.object for item in found)
    if wanted != seen:
        reasons.append(f"objects: wanted {dict(wanted)}, found {dict(seen)}")
    if reading.clutter_px > MAX_CLUTTER_PX:
        reasons.append(f"clutter: {reading.clutter_px} px belong to no object")
    if named.color:
        colors, shown = (Counter((item.object, item.color) for item in items) for items in (scene.items, found))
        if colors != shown:
            reasons.append(f"colors: wanted {dict(colors)}, found {dict(shown)}")
    if named.background and reading.background != scene.background:
        reasons.append(f"background: wanted {scene.background}, found {reading.background}")
    if wanted == seen:
        if named.relation and not _related(named.relation, *_in_order(scene, found)):
            reasons.append(f"relation: the {scene.items[0].object} is not {named.relation} the other")
        if named.size and not SIZE_RANGES_PX[named.size][0] <= found[0].size <= SIZE_RANGES_PX[named.size][1]:
            reasons.append(f"size: {found[0].size} px is not {named.size}")
        if named.place and not _at_place(named.place, found[0]):
            reasons.append(f"place: ({found[0].x}, {found[0].y}) of {found[0].size} px is not {named.place}")
    style_right = bool(found) and all(item.style == scene.style for item in found)
    return Verdict(not reasons, tuple(reasons), style_right, reading)


def _in_order(scene: Scene, found: tuple[FoundItem, ...]) -> tuple[FoundItem, FoundItem]:
    first, second = found
    return (first, second) if first.object == scene.items[0].object else (second, first)


def _related(relation: str, first: FoundItem, second: FoundItem) -> bool:
    dx = first.x + first.size / 2 - second.x - second.size / 2
    dy = first.y + first.size / 2 - second.y - second.size / 2
    along, across = (dx, dy) if relation in ("left of", "right of") else (dy, dx)
    along = -along if relation in ("left of", "above") else along
    return along >= MIN_ALONG_PX and abs(across) <= MAX_ACROSS_PX


def _at_place(place: str, item: FoundItem) -> bool:
    words = place.split()
    rows = [word for word in words if word in ("top", "bottom")] or ["middle"]
    columns = [word for word in words if word in ("left", "right")] or ["middle"]
    free = CANVAS_PX - item.size
    for word, offset in ((rows[0], item.y), (columns[0], item.x)):
        target = {"top": 0.0, "left": 0.0, "middle": free / 2, "bottom": free, "right": free}[word]
        if abs(offset - target) > (MIDDLE_SLACK_PX if word == "middle" else EDGE_SLACK_PX):
            return False
    return True


@dataclass
class DrawingReport:
    """Shares per task for both judges; `mean` is over tasks, as in GenEval."""

    first: dict[str, Share] = field(default_factory=dict)
    second: dict[str, Share] = field(default_factory=dict)
    both: Share = field(default_factory=Share)
    agreement: Share = field(default_factory=Share)
    style: Share = field(default_factory=Share)  # right style, of accepted drawings whose caption names one
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def mean(self) -> float:
        return _mean(self.first)

    @property
    def second_mean(self) -> float:
        return _mean(self.second)

    @property
    def n(self) -> int:
        return self.agreement.n


def _mean(shares: dict[str, Share]) -> float:
    return sum(share.value for share in shares.values()) / len(shares) if shares else float("nan")


def score_drawings(pairs: Iterable[tuple[Scene, np.ndarray]]) -> DrawingReport:
    """Judge pairs of (scene whose caption was the prompt, drawing uint8 [64, 64, 3])."""
    report = DrawingReport()
    for scene, image in pairs:
        one = judge(scene, image)
        two = second_judge(scene, image, one.reading)
        report.first.setdefault(scene.task, Share()).add(one.accepted)
        report.second.setdefault(scene.task, Share()).add(two.accepted)
        report.both.add(one.accepted and two.accepted)
        report.agreement.add(one.accepted == two.accepted)
        report.reasons.update(reason.split(":")[0] for reason in one.reasons)
        if scene.named.style and one.accepted:
            report.style.add(one.style_right)
    return report


Error = dict[str, dict[str, tuple[int, int]]]  # kind -> "first" | "first blurred" | "second" ... -> accepted, n


def scorer_error(n: int, seed: int, split: str = "seen") -> Error:
    """How often each judge accepts true pictures and every kind of corrupted one, sharp and blurred by one pixel."""
    counts: dict[str, dict[str, Share]] = {}
    for index in range(n):
        scene, rng = sample_scene(split, seed, index), np.random.default_rng([seed, index])
        pictures = {"true": render(scene), "shuffled": render(_different(scene, split, seed, index))}
        pictures |= {kind: picture for kind in CORRUPTIONS if (picture := corrupted(scene, kind, rng)) is not None}
        for kind, picture in pictures.items():
            row = counts.setdefault(kind, {})
            for suffix, image in (("", picture), (" blurred", blurred(picture))):
                one = judge(scene, image)
                row.setdefault("first" + suffix, Share()).add(one.accepted)
                row.setdefault("second" + suffix, Share()).add(second_judge(scene, image, one.reading).accepted)
    order = ("true", "shuffled", *CORRUPTIONS)
    return {k: {c: (s.hits, s.n) for c, s in counts[k].items()} for k in order if k in counts}


def _different(scene: Scene, split: str, seed: int, index: int) -> Scene:
    """A later scene of the same task with other objects or another number of them: the picture of another caption."""
    objects = Counter(item.object for item in scene.items)
    while True:
        index += 1
        other = sample_scene(split, seed, index, (scene.task,))
        if Counter(item.object for item in other.items) != objects:
            return other


def measured_error() -> Error:
    """The table in the package, measured by scorer_error with another seed than that of the thresholds."""
    if not MEASURED_ERROR.exists():
        raise ValueError(f"{MEASURED_ERROR.name} is missing; give format_report the table of scorer_error(n, seed)")
    return json.loads(MEASURED_ERROR.read_text(encoding="utf-8"))


def format_error(error: Error) -> str:
    """Table: share accepted, first judge / second judge, on sharp and on blurred pictures."""
    lines = [f"{'accepted, first / second judge':32}{'sharp':>16}{'blurred':>16}{'n':>7}"]
    for kind, row in error.items():
        cells = []
        for suffix in ("", " blurred"):
            cells.append(
                " / ".join(f"{100 * row[j + suffix][0] / row[j + suffix][1]:.1f}" for j in ("first", "second"))
            )
        lines.append(f"  {kind:30}{cells[0]:>16}{cells[1]:>16}{row['first'][1]:>7}")
    return "\n".join(lines)


def format_report(report: DrawingReport, error: Error | None = None) -> str:
    """The scores and the judges' own error (by default the table in the package; {}: none)."""
    lines = [f"{'task':12}{'first judge':>32}{'second judge':>34}"]
    for task in (task for task in TASKS if task in report.first):
        lines.append(f"{task:12}{report.first[task]!s:>32}{report.second[task]!s:>34}")
    lines.append(f"{'mean':12}{100 * report.mean:31.1f}%{100 * report.second_mean:33.1f}%")
    lines.append(f"both judges accept {report.both}; they agree on {report.agreement}")
    if report.style.n:
        lines.append(f"style right where named {report.style}")
    if report.reasons:
        lines.append("refused for: " + ", ".join(f"{what} {count}" for what, count in report.reasons.most_common()))
    table = measured_error() if error is None else error
    return "\n".join([*lines, "", format_error(table)] if table else lines)


if __name__ == "__main__":
    table = scorer_error(n=300, seed=31337)
    MEASURED_ERROR.parent.mkdir(exist_ok=True)
    MEASURED_ERROR.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(format_error(table))
