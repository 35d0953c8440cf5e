"""A page about a trained model: curves, drawings and scores in one HTML file without links."""

import base64
import html
import io
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from PIL import Image

from openjanus import config as configs
from openjanus.config import write_text
from openjanus.emoji import grammar, world
from openjanus.emoji.splits import stream
from openjanus.inference.engine import Engine
from openjanus.picture_files import contact_sheet
from openjanus.recipes.evaluators import evaluate_emoji_world
from openjanus.training.run import Run

SEED = 1
NUM_DRAWINGS = 32
HIDDEN = ("step", "stage", "lr", "seconds_per_step", "grad_norm", "loss", "pictures_per_second", "padding")
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "img{max-width:100%}pre{overflow-x:auto;background:#f4f4f2;padding:1rem;font-size:13px}"
)


def write_report(path: Path, title: str, engine: Engine, runs: Sequence[tuple[str, Path]], n: int) -> None:
    """Writes the page atomically. runs: names and folders of the trainings whose curves it shows. n: prompts and
    questions of a split."""
    scenes = [world.sample_scene("seen", SEED, index) for index in range(NUM_DRAWINGS)]
    prompts = [grammar.caption(scene, stream("seen", SEED, i, 1)) for i, scene in enumerate(scenes)]
    images = engine.generate(prompts, seeds=range(NUM_DRAWINGS))
    scores = evaluate_emoji_world(engine, engine.options(seed=SEED), n, SEED).text
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        *(f"<h2>{html.escape(name)}</h2>{curves(folder / 'metrics.jsonl', name)}" for name, folder in runs),
        "<h2>Drawings, none chosen</h2>",
        _picture(contact_sheet(images, columns=8), "Drawings of the captions below, in reading order."),
        f"<ol>{''.join(f'<li>{html.escape(prompt)}</li>' for prompt in prompts)}</ol>",
        f"<h2>Scores</h2><pre>{html.escape(scores)}</pre>",
    ]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    write_text(path, f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n')


def write_run_report(path: Path, run: Run, folder: Path) -> None:
    """A page about one run: curves, the drawings before and after, settings and versions. Written atomically."""
    previews = sorted((folder / "previews").glob("*.png"))
    shown = dict.fromkeys(previews[:1] + previews[-1:])
    about = "Above: drawings of the same captions and seeds. Below: the pictures that belong to the captions."
    parts = [
        f"<h1>{html.escape(run.name)}</h1>",
        curves(folder / "metrics.jsonl", run.name),
        *(f"<h2>Step {int(p.stem):,}</h2>{_picture(Image.open(p), about)}" for p in shown),
        f"<h2>Settings</h2><pre>{html.escape(configs.to_json(run))}</pre>",
        f"<h2>Versions</h2><pre>{html.escape(versions())}</pre>",
    ]
    head = f'<meta charset="utf-8"><title>{html.escape(run.name)}</title><style>{STYLE}</style>'
    write_text(path, f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n')


def versions() -> str:
    """What the run was made with: a line each."""
    names = ("openjanus", "torch", "numpy", "pillow", "tokenizers", "safetensors")
    return "\n".join(f"{name} {metadata.version(name)}" for name in names)


def curves(metrics: Path, name: str) -> str:
    """The figures of a training over its steps, a panel each, as an image element; a line of text if there are none."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    series: dict[str, list[tuple[int, float]]] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        figures = json.loads(line)
        for key, value in figures.items():
            if key not in HIDDEN:
                series.setdefault(key, []).append((figures["step"], value))
    if not series:
        return "<p>No figures yet.</p>"
    columns = min(3, len(series))
    rows = -(-len(series) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 2.6 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(series) :]:
        axis.remove()
    for axis, (key, points) in zip(axes.flat, series.items(), strict=False):
        steps, values = zip(*points, strict=True)
        axis.plot(steps, values, linewidth=1)
        axis.set_title(key.replace("_", " "), fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    plt.close(figure)
    return _element(file.getvalue(), f"Curves of {name}")


def _picture(image: Image.Image, alt: str) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return _element(file.getvalue(), alt)


def _element(png: bytes, alt: str) -> str:
    return f'<p><img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></p>'
