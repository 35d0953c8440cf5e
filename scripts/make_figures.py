"""Makes docs/drawings.png (unpicked drawings of the bundled model) and docs/training.png (its training curves).

    python scripts/make_figures.py drawings
    python scripts/make_figures.py training

Prompts are listed here, seeds are 0, 1, 2, 3: nothing is chosen after seeing it.
"""

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parents[1]
NUM_SEEDS = 4
PROMPTS = (
    "a red car",
    "a big purple butterfly on a white background",
    "a cat in the middle, night background",
    "three yellow stars",
    "two red apples on a mint background",
    "four pandas",
    "a blue umbrella above a dog",
    "a pizza left of a green guitar",
    "a pink heart and a cyan fish on a white background",
    "a burger and an orange balloon",
)
CELL_PX, GAP_PX, LABEL_PX = 128, 6, 300


def drawings() -> Image.Image:
    """One row a prompt, one column a seed."""
    from openjanus.inference.engine import load

    engine = load("nano", "cpu", "float32")
    columns = [engine.generate(PROMPTS, engine.options(seed=seed)) for seed in range(NUM_SEEDS)]
    step = CELL_PX + GAP_PX
    sheet = Image.new("RGB", (LABEL_PX + NUM_SEEDS * step + GAP_PX, len(PROMPTS) * step + GAP_PX + 28), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=17)
    for seed in range(NUM_SEEDS):
        draw.text((LABEL_PX + seed * step + CELL_PX // 2, 14), f"seed {seed}", "black", font, anchor="mm")
    for row, prompt in enumerate(PROMPTS):
        top = 28 + GAP_PX + row * step
        words, lines = prompt.split(), [""]
        for word in words:
            longer = f"{lines[-1]} {word}".strip()
            if draw.textlength(longer, font) <= LABEL_PX - 24:
                lines[-1] = longer
            else:
                lines.append(word)
        draw.text((LABEL_PX - 12, top + CELL_PX // 2), "\n".join(lines), "black", font, anchor="rm", align="right")
        for seed in range(NUM_SEEDS):
            large = columns[seed][row].resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
            sheet.paste(large, (LABEL_PX + seed * step, top))
    return sheet


def read_log(name: str) -> list[dict]:
    """What a training logged, thinned."""
    return [json.loads(line) for line in (ROOT / f"docs/nano/{name}.jsonl").read_text().splitlines()]


def training():  # -> matplotlib figure
    """What each of the three trainings logged, over its steps; figures come from docs/nano/*.jsonl."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = (
        ("tokenizer", ("psnr_db",), "image tokenizer: PSNR, dB"),
        ("encoder", ("image_to_text",), "SigLIP: caption found among 128"),
        ("janus", ("text_loss", "image_loss"), "Janus: loss per token"),
    )
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), constrained_layout=True)
    for axis, (name, keys, title) in zip(axes, panels, strict=True):
        lines = read_log(name)
        if name == "janus":  # nano.longer goes on where it ended
            end = lines[-1]["step"]
            lines += [{**line, "step": end + line["step"], "stage": "longer"} for line in read_log("longer")]
        for key in keys:
            points = [(line["step"], line[key]) for line in lines if key in line]
            axis.plot(*zip(*points, strict=True), label=key.replace("_", " "), linewidth=1.2)
        starts = {line["stage"]: line["step"] for line in reversed(lines)}
        for number, (stage, start) in enumerate(starts.items() if len(starts) > 1 else ()):
            axis.axvline(start, color="0.8", linewidth=0.8, zorder=0)
            where = (start, 1.0 - 0.06 * number)  # one below the other: short stages lie close together
            axis.annotate(f" {stage}", where, xycoords=("data", "axes fraction"), fontsize=8, color="0.4", va="top")
        axis.set(title=title, xlabel="step")
        axis.spines[["top", "right"]].set_visible(False)
        if len(keys) > 1:
            axis.legend(frameon=False)
    return figure


if __name__ == "__main__":
    made = {"drawings": drawings, "training": training}[sys.argv[1]]()
    target = ROOT / f"docs/{sys.argv[1]}.png"
    made.save(target) if isinstance(made, Image.Image) else made.savefig(target, dpi=110)
    print(target)
