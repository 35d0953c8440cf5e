"""The same drawings and answers by vLLM and by the embedded engine: side by side as a picture, and how fast.

    python scripts/compare_vllm.py --picture docs/vllm.png       # greedy drawings of the bundled model
    python scripts/compare_vllm.py --speed 1 8 32                # pictures and answers a second, so many at once

It needs vLLM: .venv-vllm/bin/python, which `make test-vllm` makes. Both engines compute in float32 on the CPU here.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).parents[1]))

from openjanus.testing.on_vllm import PICTURES, Ask, Draw, Embedded, OnVllm, on_vllm
from openjanus.weights.hub import BUNDLED

PROMPTS = (
    "two red apples on a white background",
    "a big purple butterfly on a white background",
    "three yellow stars",
    "a blue car",
    "a pink heart and a cyan fish on a white background",
    "a cat in the middle, night background",
)
CELL_PX, GAP_PX, LABEL_PX = 128, 8, 170


def side_by_side(vllm: OnVllm, embedded: Embedded) -> Image.Image:
    """One column a prompt, one row an engine; greedy, guidance of the checkpoint's own."""
    works = [Draw(prompt) for prompt in PROMPTS]
    rows = {"embedded engine": [embedded.ids(work) for work in works], "vLLM": vllm.ids(works)}
    assert rows["vLLM"] == rows["embedded engine"], "the two engines differ"
    step = CELL_PX + GAP_PX
    sheet = Image.new("RGB", (LABEL_PX + len(works) * step, 2 * step + GAP_PX), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=17)
    for i, (name, pictures) in enumerate(rows.items()):
        top = GAP_PX + i * step
        draw.text((LABEL_PX - 12, top + CELL_PX // 2), name, "black", font, anchor="rm")
        for j, ids in enumerate(pictures):
            (image,) = embedded.engine.decode_images(torch.tensor(ids)[None])
            sheet.paste(image.resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS), (LABEL_PX + j * step, top))
    return sheet


def speed(vllm: OnVllm, embedded: Embedded, counts: list[int]) -> None:
    """Whole requests a second; the better of two runs each, after one that is not counted."""
    print("| at once | pictures/s embedded | pictures/s vLLM | answers/s embedded | answers/s vLLM |")
    print("|---|---|---|---|---|")
    for n in counts:
        draws = [Draw(f"{PROMPTS[i % len(PROMPTS)]} {i}") for i in range(n)]
        asks = [Ask(f"what is it? {i}", PICTURES[i % len(PICTURES)]) for i in range(n)]
        rates = []
        for works in (draws, asks):
            rates.append(n / fastest(lambda works=works: embedded_together(embedded, works)))  # type: ignore[misc]
            rates.append(n / fastest(lambda works=works: vllm.ids(works)))  # type: ignore[misc]
        print(f"| {n} | " + " | ".join(f"{rate:.2f}" for rate in rates) + " |", flush=True)


def embedded_together(embedded: Embedded, works: list) -> None:
    """All in one running batch, as the server runs them."""
    engine = embedded.engine
    options = engine.options(temperature=0)
    embedded.run([
        engine.drawing(work.prompt, options)
        if isinstance(work, Draw)
        else engine.answer(work.conversation(), options, work.num_new)
        for work in works
    ])  # fmt: skip


def fastest(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--speed", type=int, nargs="+", default=[])
    arguments = parser.parse_args()
    embedded = Embedded(BUNDLED / "nano")
    # Without a prefix cache: a prompt that was seen before must cost what a new one does.
    with on_vllm(BUNDLED / "nano", embedded, max_num_seqs=64, enable_prefix_caching=False) as vllm:
        if arguments.picture:
            side_by_side(vllm, embedded).save(arguments.picture)
            print(arguments.picture)
        if arguments.speed:
            speed(vllm, embedded, arguments.speed)


if __name__ == "__main__":
    main()
