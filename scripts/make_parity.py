"""Writes the table of docs/parity.md: what is compared with transformers' Janus, and the largest difference found.

    python scripts/make_parity.py

It needs the dev extra. The same comparisons run in tests/parity.
"""

import sys
import tempfile
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from openjanus.processing.image import understanding_pixels  # noqa: E402
from openjanus.testing import stages  # noqa: E402

HEAD = """\
| stage | compared | transformers' folder | the same, tied | official folder |
|---|---|---|---|---|
"""
BEGIN, END = "<!-- table: scripts/make_parity.py -->\n", "<!-- end -->"


def row(name: str, kind: str, pairs: list[stages.Pair], function) -> str:
    cells = []
    for pair in pairs:
        ours, theirs = function(pair)
        difference = (ours.float() - theirs.float()).abs().max().item()
        if kind == "equal":
            cells.append(f"{'equal' if torch.equal(ours, theirs) else 'DIFFERENT'}, {theirs.numel()} ids")
        else:
            cells.append(f"{difference:.1e} (std {theirs.float().std():.2f})")
    return f"| {name} | {kind} | {' | '.join(cells)} |"


def pixels(pair: stages.Pair) -> stages.Compared:
    """Two square pictures, which both processors scale to the same size."""
    images = [stages.picture(3, side, side) for side in (200, 640)]
    theirs = pair.their_processor.image_processor(images, return_tensors="pt")["pixel_values"]
    config = pair.engine.processor.config.pixels
    return torch.stack([understanding_pixels(image, config) for image in images]), theirs


def main() -> None:
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as scratch:
        pairs = [stages.make_pair(Path(scratch) / kind, kind) for kind in stages.KINDS]
        with torch.inference_mode():
            rows = [row("pixels to understand, square pictures", "largest \\|a - b\\|", pairs, pixels)]
            rows += [row(name, "largest \\|a - b\\|", pairs, f) for name, f in stages.CLOSE.items()]
            rows += [row(name, "equal", pairs, f) for name, f in stages.EQUAL.items()]
            rows += [row("decoded pictures, levels of 255", "largest \\|a - b\\|", pairs, stages.decoded_pictures)]
    path = ROOT / "docs" / "parity.md"
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    path.write_text(before + BEGIN + HEAD + "\n".join(rows) + "\n" + END + rest.split(END)[1], encoding="utf-8")
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
