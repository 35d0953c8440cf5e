"""Pictures in two colourings: what may be worn, and that only colour differs."""

import hashlib

import numpy as np
import pytest

from openjanus.emoji import world
from openjanus.emoji.recolouring import NEAR, PALETTE, SAME, allowed_colors, dense_scene, lab_of, recoloured
from openjanus.emoji.splits import HELDOUT_COLOR_PAIRS, is_train_pair
from openjanus.emoji.sprites import COLORS, RECOLOURABLE


def distance(one, other) -> float:
    return float(np.linalg.norm(lab_of(one) - lab_of(other)))


@pytest.mark.parametrize("noun", RECOLOURABLE)
def test_no_object_wears_a_colour_near_to_its_held_out_one(noun) -> None:
    (heldout,) = (color for color, other in HELDOUT_COLOR_PAIRS if other == noun)
    assert len(allowed_colors(noun)) >= 30
    for color in allowed_colors(noun):
        assert distance(color, COLORS[heldout]) >= NEAR
        assert min(COLORS, key=lambda name: distance(color, COLORS[name])) != heldout


def test_the_palette_is_wide() -> None:
    assert len(set(PALETTE)) == len(PALETTE) == 40
    spread = np.array([lab_of(color) for color in PALETTE])
    assert (np.ptp(spread, axis=0) > [0.5, 0.2, 0.2]).all()


def test_examples_are_pure_functions_of_their_index() -> None:
    source = recoloured("train", 3)
    first = source(5)
    source(6)
    for one, other in zip(first, recoloured("train", 3)(5), strict=True):
        assert np.array_equal(one, other) and one.dtype == np.uint8 and one.shape == (64, 64, 3)


def test_the_other_picture_has_the_same_items_in_other_colours() -> None:
    """Where the true picture shows its background, so does the other one, and both are plain there."""
    source, same = recoloured("train", 0), 0
    for index in range(200):
        true, other = source(index)
        if np.array_equal(true, other):
            same += 1
            continue
        scene = dense_scene("train", 0, index)
        covered = np.zeros((64, 64), bool)
        for item in scene.items:
            covered[item.y : item.y + item.size, item.x : item.x + item.size] = True
        for picture in (true, other):
            ground = picture[~covered]
            assert (ground == ground[:1]).all()
        for item in scene.items:  # visible in both
            box = (slice(item.y, item.y + item.size), slice(item.x, item.x + item.size))
            for picture in (true, other):
                assert np.ptp(picture[box].reshape(-1, 3).astype(int), axis=0).max() > 25
    assert abs(same / 200 - SAME) < 0.08


def test_dense_scenes_hold_four_items_or_a_large_one_and_no_held_out_pair() -> None:
    kinds = {"four": 0, "large": 0, "world": 0}
    for index in range(400):
        scene = dense_scene("train", 1, index)
        nouns = [item.object for item in scene.items]
        if len(scene.items) == 4 and len(set(nouns)) > 1:
            kinds["four"] += 1
            assert all(is_train_pair(one, other) for one in nouns for other in nouns if one != other)
        elif len(scene.items) == 1 and scene.items[0].size >= 40:
            kinds["large"] += 1
        else:
            kinds["world"] += 1
        assert all((item.color, item.object) not in HELDOUT_COLOR_PAIRS for item in scene.items)
    assert kinds["four"] > 140 and kinds["large"] > 130 and kinds["world"] > 40


def test_the_worlds_own_scenes_and_sprites_are_unchanged() -> None:
    """A digest of renderings from before tinting could take any colour."""
    digest = hashlib.sha256()
    for split in ("train", "seen", "heldout_color", "heldout_pair", "heldout_style"):
        for index in range(30):
            digest.update(world.render(world.sample_scene(split, 11, index)).tobytes())
    assert digest.hexdigest()[:16] == "3bad14d2f7209d1e"
