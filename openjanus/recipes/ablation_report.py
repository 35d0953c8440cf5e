"""The results of the experiments: a table in the layout of the paper's Table 5, a plot, and the differences from D."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from openjanus.config import write_text
from openjanus.emoji.mini import KINDS
from openjanus.recipes.ablations import EXPERIMENTS, STAGES, Setting, differences

Results = dict[str, Any]
Value = Callable[[Results], float]
WORDS = {"what": "what?", "color": "colour?", "where": "where?", "yes_no": "yes or no?"}


def _answered(split: str, kind: str, field: str = "right") -> Value:
    return lambda scores: 100 * scores["answers"][split][kind][field]


def _drawn(split: str, field: str = "accepted", part: str = "drawings") -> Value:
    factor = 1000 if field == "distance" else 100
    return lambda scores: factor * scores[part][split][field]


# The columns: title, the part of the scores that it needs, and the value.
COLUMNS: tuple[tuple[str, str, Value], ...] = (
    *((WORDS[kind], "answers", _answered("seen", kind)) for kind in KINDS),
    ("answers, mean", "answers", _answered("seen", "mean")),
    ("held-out colours", "answers", _answered("heldout_color", "mean")),
    ("(always the most frequent)", "answers", _answered("seen", "mean", "majority")),
    ("drawn", "drawings", _drawn("seen")),
    ("drawn, held-out colours", "drawings", _drawn("heldout_color")),
    ("(tokenizer's ceiling)", "ceiling", _drawn("seen", part="ceiling")),
    ("(by another caption)", "drawings", _drawn("seen", "chance")),
    ("distance ↓", "drawings", _drawn("seen", "distance")),
    ("(tokenizer's)", "ceiling", _drawn("seen", "distance", part="ceiling")),
)


def write_reports(setting: Setting, results: Results, folder: Path) -> list[Path]:
    """Writes table.md, differences.md and scores.png; returns their paths."""
    paths = [folder / "table.md", folder / "differences.md", folder / "scores.png"]
    write_text(paths[0], table(results) + "\n")
    write_text(paths[1], changes(setting, list(results["experiments"])) + "\n")
    plot(results, paths[2])
    return paths


def table(results: Results) -> str:
    """Markdown: a row for each experiment, percent, means over the seeds and their standard deviation."""
    titles = ("Exp", "visual encoder", "tasks", *(title for title, _, _ in COLUMNS), "seeds")
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for name, by_seed in _in_order(results):
        encoder, tasks = EXPERIMENTS.get(name) or (STAGES[name][0], EXPERIMENTS["D"][1])
        runs = list(by_seed.values())
        cells = [cell([value(scores) for scores in runs if part in scores]) for _, part, value in COLUMNS]
        lines.append(f"| {name} | {encoder} | {tasks} | " + " | ".join(cells) + f" | {len(runs)} |")
    return "\n".join(lines)


def _in_order(results: Results) -> list[tuple[str, Results]]:
    names = [*EXPERIMENTS, *STAGES]
    return sorted(results["experiments"].items(), key=lambda item: names.index(item[0]))


def cell(values: Sequence[float]) -> str:
    """A mean with the standard deviation of several; a dash for none."""
    if not values:
        return "–"
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"


def changes(setting: Setting, names: Sequence[str]) -> str:
    """Markdown: for each experiment the fields in which its configuration differs from D's."""
    parts = []
    for name in (*EXPERIMENTS, *STAGES):
        if name in names and name != "D":
            parts.append("\n".join([f"## {name}", "", *(f"- `{line}`" for line in differences(setting, name))]))
    return "\n\n".join(["# How each configuration differs from D", *parts])


def plot(results: Results, path: Path) -> None:
    """Three panels: answers, drawings, distance. A bar is the mean, and a dot is one seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = (
        ("questions answered right, %", "answers", _answered("seen", "mean"), _answered("seen", "mean", "majority")),
        ("drawings accepted, %", "drawings", _drawn("seen"), _drawn("seen", part="ceiling")),
        ("1000 × distance from true pictures (lower is better)", "drawings", _drawn("seen", "distance"),
         _drawn("seen", "distance", part="ceiling")),
    )  # fmt: skip
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    rows = _in_order(results)
    for axis, (title, part, value, line) in zip(axes, panels, strict=True):
        for place, (name, by_seed) in enumerate(rows):
            runs = [scores for scores in by_seed.values() if part in scores]
            if not runs:
                continue
            values = [value(scores) for scores in runs]
            axis.bar(place, mean(values), width=0.6, color="#4c78a8" if name == "D" else "#b8c9dc")
            axis.scatter([place] * len(values), values, s=12, color="#222", zorder=3)
            axis.hlines(
                mean(line(scores) for scores in runs), place - 0.36, place + 0.36, color="#e45756", linewidth=1.5
            )
        axis.set_title(title, fontsize=10)
        axis.set_xlim(-0.6, len(rows) - 0.4)
        axis.set_xticks(range(len(rows)), [name for name, _ in rows], fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_xlabel("red: always the most frequent answer", fontsize=9)
    axes[1].set_xlabel("red: true pictures through the tokenizer", fontsize=9)
    axes[2].set_xlabel("red: true pictures through the tokenizer", fontsize=9)
    draft = path.with_name(f".{path.name}")
    figure.savefig(draft, dpi=120, format="png")
    plt.close(figure)
    draft.replace(path)
