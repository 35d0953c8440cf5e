"""Makes the pictures that the package ships: scenes of the emoji world at 256 px, for `openjanus demo` and the README.

python scripts/make_pictures.py
"""

from pathlib import Path

from PIL import Image

from openjanus.emoji.world import Item, Named, Scene, render

TARGET = Path(__file__).parents[1] / "openjanus/assets/pictures"
SCENES = {
    "cat-and-balloon": Scene(
        (Item("cat", None, 0, 20, 28), Item("balloon", "red", 36, 16, 28)), "sky", "noto", "two", Named()
    ),
    "three-stars": Scene(
        tuple(Item("star", "yellow", x, y, 28) for x, y in ((0, 0), (36, 0), (16, 36))),
        "night",
        "fluent",
        "counting",
        Named(),
    ),
}

if __name__ == "__main__":
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, scene in SCENES.items():
        Image.fromarray(render(scene, 256)).save(TARGET / f"{name}.png")
