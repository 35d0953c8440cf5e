"""Fine-tuning on pictures of your own, measured: the bundled model learns collages, which it has never seen.

    python examples/finetune.py --out runs/collages

A collage has four different things, one in each corner; the bundled model knows at most two kinds in a picture. The
example writes a folder as a user would have one: pictures, a caption for each, and a question about each. LoRA
trains on it in both directions, with some of the old world beside it, so that less is forgotten. Drawings and answers
are scored before and after, for collages and for the old pictures.
"""

import json
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

import openjanus
from openjanus.emoji import grammar, world
from openjanus.emoji.drawing_score import in_world_size, judge
from openjanus.emoji.scene_reader import read_scene
from openjanus.emoji.splits import stream
from openjanus.emoji.words import with_article
from openjanus.processing.message import Message

CORNERS = ("top left", "top right", "bottom left", "bottom right")
TRAIN_SEED, TEST_SEED = 11, 12


def collage(seed: int, index: int) -> world.Scene:
    """Four different things of the world, in colours that they have there."""
    items: dict[str, world.Item] = {}
    number = 0
    while len(items) < len(CORNERS):
        drawn = world.sample_scene("seen", seed, 1000 * index + number, ("one", "color"))
        x, y = world.SLOTS_PX[len(items) % 2], world.SLOTS_PX[len(items) // 2]
        thing = drawn.items[0]
        items.setdefault(thing.object, world.Item(thing.object, thing.color, x, y, world.MULTI_PX))
        number += 1
    return world.Scene(tuple(items.values()), drawn.background, drawn.style, "collage", world.Named())


def name_of(item: world.Item) -> str:
    return with_article(f"{item.color} {item.object}" if item.color else item.object)


def caption(scene: world.Scene) -> str:
    first, second, third, fourth = map(name_of, scene.items)
    return f"in the corners: {first}, {second}, {third} and {fourth}"


def question(scene: world.Scene, index: int) -> tuple[str, str]:
    return f"what is in the {CORNERS[index % 4]} corner?", scene.items[index % 4].object


def write_data(folder: Path, num: int) -> None:
    """Pictures, and a file with a caption and a question for each."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(num):
        scene = collage(TRAIN_SEED, index)
        text, answer = question(scene, index)
        Image.fromarray(world.render(scene)).save(folder / f"{index}.png")
        records.append({"image": f"{index}.png", "text": caption(scene)})
        records.append({"image": f"{index}.png", "question": text, "answer": answer})
    (folder / "data.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")


def corners_right(scene: world.Scene, image: Image.Image) -> float:
    """The share of the corners with the right thing in the right colour."""
    half = world.CANVAS_PX / 2
    found = {(i.x + i.size / 2 > half, i.y + i.size / 2 > half): i for i in read_scene(in_world_size(image)).items}
    shown = [found.get((item.x > 0, item.y > 0)) for item in scene.items]
    wanted = [(item.object, item.color) for item in scene.items]
    return float(np.mean([f is not None and (f.object, f.color) == w for f, w in zip(shown, wanted, strict=True)]))


def score_collages(engine: openjanus.Engine, num: int) -> tuple[float, float, list[Image.Image]]:
    """The shares of corners drawn right and of questions answered right, and the drawings."""
    scenes = [collage(TEST_SEED, index) for index in range(num)]
    images = engine.generate([caption(scene) for scene in scenes], seeds=range(num))
    drawn = [corners_right(scene, image) for scene, image in zip(scenes, images, strict=True)]
    questions = [question(scene, index) for index, scene in enumerate(scenes)]
    return float(np.mean(drawn)), answered(engine, scenes, questions), images


def score_old(engine: openjanus.Engine, num: int) -> tuple[float, float, list[Image.Image]]:
    """The same for the pictures that the model was made for: whole drawings, and all kinds of questions."""
    scenes = [world.sample_scene("seen", TEST_SEED, index) for index in range(num)]
    captions = [grammar.caption(scene, stream("seen", TEST_SEED, i, 1)) for i, scene in enumerate(scenes)]
    images = engine.generate(captions, seeds=range(num))
    drawn = [judge(scene, in_world_size(image)).accepted for scene, image in zip(scenes, images, strict=True)]
    asked = [grammar.question(scene, stream("seen", TEST_SEED, i, 2)) for i, scene in enumerate(scenes)]
    return float(np.mean(drawn)), answered(engine, scenes, [(q.text, q.answer) for q in asked]), images


def answered(engine: openjanus.Engine, scenes: list[world.Scene], questions: list[tuple[str, str]]) -> float:
    pictures = [Image.fromarray(world.render(scene)) for scene in scenes]
    asked = [[Message("user", [picture, text])] for picture, (text, _) in zip(pictures, questions, strict=True)]
    answers = engine.answers(asked, max_new_tokens=16)
    return float(np.mean([said == answer for said, (_, answer) in zip(answers, questions, strict=True)]))


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Rows of pictures, twice as large."""
    paper = Image.new("RGB", (136 * len(rows[0]) + 8, 136 * len(rows) + 8), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            paper.paste(image.resize((128, 128), Image.Resampling.LANCZOS), (8 + 136 * x, 8 + 136 * y))
    return paper


def main(out: Path, num_pictures: int = 2000, num_steps: int = 300, num_tests: int = 200, threads: int = 0) -> None:
    """Writes the data, measures the bundled model, tunes it, and measures it with its adapter.

    Args:
        out: a new folder for data, run, figures and drawings
        num_pictures: collages to train on
        num_steps: of the training
        num_tests: prompts and questions, for collages and for old pictures
        threads: of the CPU; 0: torch's own choice
    """
    write_data(out / "data", num_pictures)
    base = openjanus.load("nano")
    before = score_collages(base, num_tests), score_old(base, num_tests)
    overrides = [
        "data.use=draw",
        f"stages.tune.num_steps={num_steps}",
        "stages.tune.lr=1e-3",
        'stages.tune.mixture={"data": 20, "emoji.drawings": 20, "emoji.questions": 8}',
        "task.lora.rank=32",
        "task.text_weight=4",
        "task.row_tokens=192",
        "task.micro_batch_rows=32",
    ]
    adapter = openjanus.train("nano", out / "data", out / "run", "finetune.lora", overrides, threads=threads)
    tuned = openjanus.load("nano", adapter=adapter)
    after = score_collages(tuned, num_tests), score_old(tuned, num_tests)
    print(f"{'':26}before   after")
    for number, name in enumerate(("collages, corners drawn", "old pictures, drawings")):
        for kind, what in enumerate((name, name.split(",")[0] + ", answers")):
            print(f"{what:26}{before[number][kind]:6.0%}  {after[number][kind]:6.0%}")
    sheet([before[0][2][:8], after[0][2][:8]]).save(out / "drawings.png")


if __name__ == "__main__":
    tyro.cli(main)
