"""The blind reading of pictures, against the scenes they were drawn from."""

import numpy as np
import pytest

from openjanus.emoji.corruption import blurred
from openjanus.emoji.scene_reader import MAX_CLUTTER_PX, read_scene
from openjanus.emoji.sprites import BACKGROUNDS
from openjanus.emoji.world import CANVAS_PX, render, sample_scene


@pytest.mark.parametrize("split", ["seen", "heldout_color", "heldout_pair"])
def test_true_scenes_are_read_exactly(split):
    for index in range(20):
        scene = sample_scene(split, 21, index)
        reading = read_scene(render(scene))
        assert reading.background == scene.background
        assert reading.clutter_px <= MAX_CLUTTER_PX
        wanted = sorted(scene.items, key=lambda item: (item.y, item.x))
        found = sorted(reading.items, key=lambda item: (round(item.y / 4), item.x))
        assert [(i.object, i.color) for i in found] == [(i.object, i.color) for i in wanted], scene
        assert {i.style for i in found} == {scene.style}
        for seen, true in zip(found, wanted, strict=True):
            assert max(abs(seen.x - true.x), abs(seen.y - true.y), abs(seen.size - true.size)) <= 2


def test_blur_costs_fit_but_not_the_reading():
    for index in range(15):
        scene = sample_scene("seen", 22, index)
        sharp, soft = read_scene(render(scene)), read_scene(blurred(render(scene)))
        assert [item.object for item in soft.items].count(None) == 0
        assert sorted(str(i.object) for i in soft.items) == sorted(str(i.object) for i in sharp.items)
        assert min(i.fit for i in soft.items) < min(i.fit for i in sharp.items)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_an_empty_picture_has_nothing_in_it(background):
    image = np.empty((CANVAS_PX, CANVAS_PX, 3), np.uint8)
    image[:] = BACKGROUNDS[background]
    reading = read_scene(image)
    assert (reading.background, reading.items, reading.clutter_px) == (background, (), 0)


def test_noise_holds_no_object():
    rng = np.random.default_rng(0)
    for low, high in ((0, 256), (90, 190)):
        image = rng.integers(low, high, (CANVAS_PX, CANVAS_PX, 3)).astype(np.uint8)
        reading = read_scene(image)
        assert all(item.object is None for item in reading.items)


def test_wrong_pictures_are_refused_with_advice():
    with pytest.raises(ValueError, match=r"expected uint8 \[64, 64, 3\].*resize"):
        read_scene(np.zeros((96, 96, 3), np.uint8))
    with pytest.raises(ValueError, match="float32"):
        read_scene(np.zeros((64, 64, 3), np.float32))
