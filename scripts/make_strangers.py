"""Thirty prompts as a stranger types them, with what the model makes of them: docs/strangers.png and docs/nano.md.

    python scripts/make_strangers.py [MODEL]

The list stands here and the seed is 0: nothing is chosen after seeing it.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from openjanus.inference.engine import Engine, load
from openjanus.processing.message import Message

ROOT = Path(__file__).parents[1]
TO_DRAW = (
    "A RED CAR", "a large dog", "five apples", "a pink car", "two cats please", "Draw me a grey-blue fish",
    "ein roter Apfel", "a zebra", "huge yellow star on a night background", "tiny frog", "apple, green, big",
    "could you draw a turquoise butterfly?", "3 pizzas", "a cat on the left of a dog", "a puppy and a kitty",
    "a colourful umbrella", "🍎", "the moon", "a purple banana", "an owl wearing a hat",
)  # fmt: skip
TO_SAY = (
    "hello", "who are you?", "what can you do?", "Wie geht es dir?", "what is the capital of France?", "thanks!",
    "help", "which colors do you know?", "draw a cat", "how old are you",
)  # fmt: skip
COLUMNS, CELL_PX, LABEL_PX, GAP_PX = 5, 160, 40, 10


def sheet(engine: Engine) -> Image.Image:
    """The drawings, each above its prompt."""
    images = engine.generate(TO_DRAW, seed=0)
    rows, step = -(-len(images) // COLUMNS), CELL_PX + GAP_PX
    whole = Image.new("RGB", (COLUMNS * step + GAP_PX, rows * (step + LABEL_PX) + GAP_PX), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(size=13)
    for number, (image, prompt) in enumerate(zip(images, TO_DRAW, strict=True)):
        x, y = GAP_PX + number % COLUMNS * step, GAP_PX + number // COLUMNS * (step + LABEL_PX)
        whole.paste(image.resize((CELL_PX, CELL_PX), Image.Resampling.NEAREST), (x, y))
        words, lines = prompt.split(), [""]
        for word in words:
            longer = f"{lines[-1]} {word}".strip()
            if draw.textlength(longer, font) <= CELL_PX:
                lines[-1] = longer
            else:
                lines.append(word)
        draw.text(
            (x + CELL_PX // 2, y + CELL_PX + LABEL_PX // 2), "\n".join(lines), "black", font, "mm", align="center"
        )
    return whole


def table(engine: Engine) -> str:
    """Prompts with the words that are named as unknown, and what is said to the others."""
    rows = ["| drawn | words named as unknown |", "|---|---|"]
    rows += [f"| {prompt} | {', '.join(engine.unknown_words(prompt)) or '-'} |" for prompt in TO_DRAW]
    answers = engine.answers([[Message("user", words)] for words in TO_SAY], max_new_tokens=40)
    rows += ["", "| said | answer |", "|---|---|"]
    rows += [f"| {words} | {answer} |" for words, answer in zip(TO_SAY, answers, strict=True)]
    return "\n".join(rows)


def main() -> None:
    engine = load(sys.argv[1] if len(sys.argv) > 1 else "nano", "cpu", "float32")
    target = ROOT / "docs"
    sheet(engine).save(target / "strangers.png")
    (target / "nano.md").write_text(
        "# Thirty prompts of a stranger\n\nMade by `python scripts/make_strangers.py`, seed 0, none chosen.\n\n"
        "![Twenty drawings, each above its prompt](strangers.png)\n\n" + table(engine) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
