"""Build the sprite pack of the emoji world from named, pinned npm packages.

Source: the iconify repackagings of Noto, Fluent (flat), Twemoji and EmojiOne v2 (SVG bodies) and the English
annotations of CLDR (names, keywords). Every SVG is rendered at RENDER_PX, trimmed to its visible box, scaled to fill
a SPRITE_PX square (aspect kept, centred) and laid on one RGBA atlas per style.

    python scripts/make_sprites.py            # needs npm on PATH and `pip install resvg-py pillow`
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import resvg_py
from PIL import Image

SPRITE_PX = 96
RENDER_PX = 288  # three times larger, so that trimming and rescaling lose nothing
COLUMNS = 8

STYLES = {
    "noto": ("@iconify-json/noto", "1.2.9", "Apache-2.0", "Noto Emoji, Google"),
    "fluent": ("@iconify-json/fluent-emoji-flat", "1.2.6", "MIT", "Fluent Emoji, Microsoft"),
    "twemoji": ("@iconify-json/twemoji", "1.2.5", "CC-BY-4.0", "Twemoji, Twitter and contributors"),
    "emojione": ("@iconify-json/emojione", "1.2.3", "CC-BY-4.0", "EmojiOne v2"),
}
CLDR = ("cldr-annotations-full", "48.2.0", "Unicode-3.0", "Unicode CLDR")

# codepoint, noun, plural, category, tint. tint says which pixels take the colour: "main" = hues near the dominant one,
# "all" = every coloured pixel, "whole" = every pixel (bodies that one style draws in grey), "solid" = all but
# near-black and near-white, [hue, halfwidth] = an OKLab hue window in degrees; None = natural colours.
OBJECTS: list[tuple[str, str, str, str, Any]] = [
    ("2764", "heart", "hearts", "shape", "all"),
    ("2b50", "star", "stars", "shape", "all"),
    ("1f697", "car", "cars", "vehicle", "main"),
    ("1f388", "balloon", "balloons", "toy", "all"),
    ("1f34e", "apple", "apples", "fruit", "main"),
    ("2602", "umbrella", "umbrellas", "tool", "all"),
    ("1f455", "shirt", "shirts", "clothing", "whole"),
    ("1f511", "key", "keys", "tool", "all"),
    ("1f514", "bell", "bells", "instrument", "whole"),
    ("1f98b", "butterfly", "butterflies", "animal", "all"),
    ("1f41f", "fish", "fish", "animal", "solid"),
    ("1f4d5", "book", "books", "tool", "all"),
    ("1f344", "mushroom", "mushrooms", "plant", "main"),
    ("1f337", "tulip", "tulips", "flower", [0, 45]),
    ("1f341", "leaf", "leaves", "plant", "all"),
    ("1f451", "crown", "crowns", "clothing", "main"),
    ("1f48e", "gem", "gems", "stone", "all"),
    ("1f3a9", "hat", "hats", "clothing", "whole"),
    ("1f457", "dress", "dresses", "clothing", "all"),
    ("1f512", "lock", "locks", "tool", "all"),
    ("1f426", "bird", "birds", "animal", "main"),
    ("1f460", "shoe", "shoes", "clothing", "whole"),
    ("1f319", "moon", "moons", "shape", "all"),
    ("1f3b8", "guitar", "guitars", "instrument", "main"),
    ("1f431", "cat", "cats", "animal", None),
    ("1f436", "dog", "dogs", "animal", None),
    ("1f43c", "panda", "pandas", "animal", None),
    ("1f438", "frog", "frogs", "animal", None),
    ("1f437", "pig", "pigs", "animal", None),
    ("1f989", "owl", "owls", "animal", None),
    ("1f34c", "banana", "bananas", "fruit", None),
    ("1f353", "strawberry", "strawberries", "fruit", None),
    ("1f355", "pizza", "pizzas", "food", None),
    ("1f333", "tree", "trees", "plant", None),
    ("1f33b", "sunflower", "sunflowers", "flower", None),
    ("26bd", "ball", "balls", "toy", None),
    ("1f354", "burger", "burgers", "food", None),
    ("1f369", "donut", "donuts", "food", None),
    ("1f335", "cactus", "cacti", "plant", None),
    ("1f383", "pumpkin", "pumpkins", "food", None),
]


def fetch(name: str, version: str, folder: Path) -> Path:
    """Download one npm package into folder and return the path of its unpacked contents."""
    archive = subprocess.run(
        ["npm", "pack", "--silent", f"{name}@{version}"], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.split()[-1]
    target = folder / archive.removesuffix(".tgz")
    with tarfile.open(folder / archive) as tar:
        tar.extractall(target, filter="data")
    return target / "package"


def icon_svg(icons: dict[str, Any], name: str) -> str:
    """The SVG document of one icon of an iconify package, aliases followed."""
    name = icons.get("aliases", {}).get(name, {}).get("parent", name)
    icon = icons["icons"][name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )


def render_sprite(svg: str) -> Image.Image:
    """RGBA sprite of SPRITE_PX: rendered, trimmed, scaled to fill the square, centred."""
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=RENDER_PX, height=RENDER_PX, skip_system_fonts=True))
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    # Nearly invisible fringes and soft shadows must not decide the box.
    image = image.crop(image.getchannel("A").point(lambda a: 255 if a > 24 else 0).getbbox())
    scale = SPRITE_PX / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    image = image.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")
    sprite = Image.new("RGBA", (SPRITE_PX, SPRITE_PX))
    sprite.paste(image, ((SPRITE_PX - width) // 2, (SPRITE_PX - height) // 2))
    return sprite


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "openjanus" / "data" / "assets")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names: dict[str, str] = {}
        for style, (package, version, _, _) in STYLES.items():
            unpacked = fetch(package, version, folder)
            icons = json.loads((unpacked / "icons.json").read_text())
            own = json.loads((unpacked / "chars.json").read_text())
            names = names or own  # emojione ships no code points; icon names are the same in all iconify emoji sets
            atlas = Image.new("RGBA", (COLUMNS * SPRITE_PX, -(-len(OBJECTS) // COLUMNS) * SPRITE_PX))
            for i, (codepoint, *_) in enumerate(OBJECTS):
                keys = (codepoint, f"{codepoint}-fe0f")
                icon = next(table[key] for table in (own, names) for key in keys if key in table)
                sprite = render_sprite(icon_svg(icons, icon))
                atlas.paste(sprite, (i % COLUMNS * SPRITE_PX, i // COLUMNS * SPRITE_PX))
            atlas.save(out / f"sprites-{style}.png", optimize=True)
        cldr = fetch(CLDR[0], CLDR[1], folder)
        annotations = json.loads((cldr / "annotations" / "en" / "annotations.json").read_text())
    tables = annotations["annotations"]["annotations"]
    objects = []
    for codepoint, noun, plural, category, tint in OBJECTS:
        entry = tables[chr(int(codepoint, 16))]
        objects.append(
            {
                "codepoint": codepoint.upper(),
                "name": entry["tts"][0],
                "keywords": entry["default"],
                "noun": noun,
                "plural": plural,
                "category": category,
                "recolourable": tint is not None,
                "tint": tint,
            }
        )
    fields = ("package", "version", "license", "credit")
    pack = {
        "sprite_px": SPRITE_PX,
        "columns": COLUMNS,
        "styles": {style: dict(zip(fields, source, strict=True)) for style, source in STYLES.items()},
        "names": dict(zip(fields, CLDR, strict=True)),
        "objects": objects,
    }
    lines = json.dumps(pack, ensure_ascii=False, indent=1)
    (out / "sprites.json").write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
