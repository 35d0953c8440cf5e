"""Scenes: pure, inside the canvas, apart from each other, true to what the caption promises."""

from collections import Counter

import numpy as np
import pytest

from openjanus.emoji.splits import HELDOUT_STYLE, SPLIT_TASKS, SPLITS, TASKS, TRAIN_STYLES
from openjanus.emoji.sprites import BACKGROUNDS, OBJECTS
from openjanus.emoji.world import (
    CANVAS_PX,
    GAP_PX,
    LATTICE_PX,
    PLACES,
    RELATIONS,
    SIZES_PX,
    Item,
    place_of,
    relation_of,
    render,
    sample_scene,
)

SCENES = [sample_scene(split, 3, index) for split in SPLITS for index in range(1500)]


def test_layout_keeps_lattice_canvas_and_gap():
    for scene in SCENES:
        for i, a in enumerate(scene.items):
            assert a.x % LATTICE_PX == a.y % LATTICE_PX == 0
            assert 0 <= a.x <= CANVAS_PX - a.size and 0 <= a.y <= CANVAS_PX - a.size
            for b in scene.items[:i]:
                assert max(abs(a.x - b.x), abs(a.y - b.y)) >= a.size + GAP_PX


def test_tasks_mean_what_they_say():
    for scene in SCENES:
        items, named = scene.items, scene.named
        assert all((item.color is not None) == OBJECTS[item.object].recolourable for item in items)
        assert not named.color or any(item.color for item in items)
        assert (named.count is not None) == (scene.task == "counting")
        assert (named.relation is not None) == (scene.task == "position")
        if scene.task in ("one", "color"):
            assert len(items) == 1 and named.color == (scene.task == "color")
        elif scene.task == "counting":
            assert len(items) == named.count and len({(i.object, i.color) for i in items}) == 1
        else:
            assert len(items) == 2 and items[0].object != items[1].object
        if scene.task == "attribute":
            assert named.color and items[0].color != items[1].color and None not in (items[0].color, items[1].color)
        if named.relation:
            assert relation_of(items[0], items[1]) == named.relation
        if named.size:
            assert items[0].size == SIZES_PX[named.size] and len(items) == 1
        if named.place:
            assert place_of(items[0].x, items[0].y, items[0].size) == named.place and len(items) == 1


def test_everything_occurs():
    assert {scene.task for scene in SCENES} == set(TASKS)
    assert {scene.named.place for scene in SCENES} == {None, *PLACES}
    assert {scene.named.relation for scene in SCENES} == {None, *RELATIONS}
    assert {scene.background for scene in SCENES} == set(BACKGROUNDS)
    counts = Counter(scene.named.count for scene in SCENES if scene.named.count)
    assert set(counts) == {1, 2, 3, 4} and min(counts.values()) > 0.8 * max(counts.values())


def test_splits_keep_their_style_and_tasks():
    for split in SPLITS:
        scenes = [sample_scene(split, 4, index) for index in range(300)]
        assert {scene.task for scene in scenes} == set(SPLIT_TASKS[split])
        expected = {HELDOUT_STYLE} if split == "heldout_style" else set(TRAIN_STYLES)
        assert {scene.style for scene in scenes} == expected
        assert not (split == "heldout_style" and any(scene.named.style for scene in scenes))


def test_scenes_are_pure_and_streams_differ():
    assert sample_scene("train", 5, 7) == sample_scene("train", 5, 7)
    streams = [tuple(sample_scene(split, seed, i) for i in range(20)) for split in ("train", "seen") for seed in (0, 1)]
    assert len(set(streams)) == 4


def test_tasks_argument():
    assert {sample_scene("train", 0, i, ["counting"]).task for i in range(20)} == {"counting"}
    assert {sample_scene("train", 0, i, {"two": 1, "one": 0}).task for i in range(20)} == {"two"}
    assert sample_scene("heldout_pair", 0, 0, TASKS).task in SPLIT_TASKS["heldout_pair"]
    with pytest.raises(ValueError, match="heldout_color"):
        sample_scene("heldout_color", 0, 0, ["two"])
    with pytest.raises(ValueError, match="dance"):
        sample_scene("train", 0, 0, ["dance"])
    with pytest.raises(ValueError, match="test"):
        sample_scene("test", 0, 0)


@pytest.mark.parametrize("size_px", [64, 96])
def test_render(size_px):
    for index in range(30):
        scene = sample_scene("train", 6, index)
        image = render(scene, size_px)
        assert image.shape == (size_px, size_px, 3) and image.dtype == np.uint8
        assert (image == render(scene, size_px)).all()
        # Outside the boxes there is background and nothing else; inside there is something.
        outside = np.ones((size_px, size_px), bool)
        for item in scene.items:
            x, y, side = (value * size_px // CANVAS_PX for value in (item.x, item.y, item.size))
            outside[y : y + side, x : x + side] = False
            assert (image[y : y + side, x : x + side] != BACKGROUNDS[scene.background]).any(-1).mean() > 0.15
        assert (image[outside] == BACKGROUNDS[scene.background]).all()


@pytest.mark.parametrize("size_px", [-16, 0, 8, 40, 70, 72])
def test_a_size_that_puts_boxes_on_half_pixels_is_refused(size_px):
    with pytest.raises(ValueError, match=f"size_px is {size_px}; expected a positive multiple of 16"):
        render(sample_scene("train", 6, 0), size_px)


def test_sizes_that_are_drawn_put_every_box_on_whole_pixels():
    boxes = {value for i in range(300) for item in sample_scene("train", 6, i).items for value in (item.x, item.size)}
    for size_px in (16, 32, 48, 80, 112):
        assert all(value * size_px % CANVAS_PX == 0 for value in boxes)
        render(sample_scene("train", 6, 0), size_px)


def test_relation_and_place_are_none_when_unclear():
    assert relation_of(Item("cat", None, 0, 0, 28), Item("dog", None, 36, 36, 28)) is None
    assert place_of(8, 16, 28) is None and place_of(0, 0, 52) is None
    assert place_of(0, 36, 28) == "bottom left"
