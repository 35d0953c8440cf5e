"""The judges' verdicts: right ones on true pictures, refusals of spoilt ones, and no demand that no caption made."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from openjanus.emoji.corruption import CORRUPTIONS, blurred, corrupted
from openjanus.emoji.drawing_score import (
    Share,
    format_error,
    format_report,
    judge,
    measured_error,
    score_drawings,
    scorer_error,
    verdict,
)
from openjanus.emoji.scene_reader import FoundItem, Reading
from openjanus.emoji.splits import TASKS
from openjanus.emoji.world import Item, Named, Scene, render, sample_scene

SEED = 31
# Bars for samples of some forty; the measured shares (n = 300) are in assets/scorer_error.json.
MOST_ACCEPTED = {"disc": 0.03, "square": 0.03, "smudge": 0.08, "silhouette": 0.05, "half": 0.05, "chimera": 0.1}


@pytest.fixture(scope="module")
def scenes():
    return [sample_scene("seen", SEED, index) for index in range(60)]


def test_true_pictures_are_accepted(scenes):
    verdicts = [judge(scene, render(scene)) for scene in scenes]
    assert np.mean([v.accepted for v in verdicts]) >= 0.95
    assert all(v.style_right for v in verdicts if v.accepted)
    assert np.mean([judge(scene, blurred(render(scene))).accepted for scene in scenes]) >= 0.95


def test_pictures_of_other_scenes_are_refused(scenes):
    """Of the same task, so that a lenient judge could be fooled."""
    by_task = {task: [scene for scene in scenes if scene.task == task] for task in TASKS}
    pairs = [(a, b) for group in by_task.values() for a, b in zip(group, group[1:] + group[:1], strict=True)]
    pairs = [(a, b) for a, b in pairs if Counter(i.object for i in a.items) != Counter(i.object for i in b.items)]
    assert len(pairs) > 40
    assert np.mean([judge(a, render(b)).accepted for a, b in pairs]) <= 0.01


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_spoilt_pictures_are_refused(kind, scenes):
    pictures = [(s, corrupted(s, kind, np.random.default_rng([SEED, i]))) for i, s in enumerate(scenes)]
    shown = [(scene, picture) for scene, picture in pictures if picture is not None][:40]
    assert len(shown) >= 3
    assert np.mean([judge(scene, picture).accepted for scene, picture in shown]) <= MOST_ACCEPTED.get(kind, 0.02)


def found(noun, x, y, size=28, color=None):
    return FoundItem(noun, color, "noto", x, y, size, 1.0, 0.0, 0.0, 1.0, noun)


def two(named, first, second, task="position"):
    items = (Item("cat", None, 0, 0, 28), Item("car", "red", 36, 0, 28))
    return verdict(Scene(items, "white", "noto", task, named), Reading("white", (first, second), 0))


@pytest.mark.parametrize(
    ("relation", "cat", "car"),
    [
        ("left of", (0, 10), (36, 4)),
        ("right of", (36, 0), (0, 8)),
        ("above", (10, 0), (12, 32)),
        ("below", (0, 36), (0, 0)),
    ],
)
def test_relations_whatever_the_order_of_reading(relation, cat, car):
    pair = (found("cat", *cat), found("car", *car, color="red"))
    for first, second in (pair, pair[::-1]):
        assert two(Named(relation=relation), first, second).accepted
    swapped = (found("cat", *car), found("car", *cat, color="red"))
    assert two(Named(relation=relation), *swapped).reasons[0].startswith("relation")
    assert two(Named(), *swapped).accepted, "an unnamed relation is free"


def test_a_diagonal_is_no_relation():
    pair = (found("cat", 0, 0), found("car", 36, 36, color="red"))
    assert not two(Named(relation="left of"), *pair).accepted
    assert not two(Named(relation="above"), *pair).accepted


def test_only_what_the_caption_says_is_demanded():
    pair = (found("cat", 0, 0), found("car", 36, 0, color="blue"))
    assert two(Named(), *pair, task="two").accepted
    assert two(Named(color=True), *pair, task="two").reasons[0].startswith("colors")
    scene = Scene((Item("cat", None, 4, 4, 28),), "white", "noto", "one", Named())
    reading = Reading("night", (found("cat", 4, 4),), 0)
    assert verdict(scene, reading).accepted
    assert not verdict(replace(scene, named=Named(background=True)), reading).accepted
    assert not verdict(scene, replace(reading, clutter_px=200)).accepted
    assert not verdict(scene, replace(reading, items=(found("cat", 0, 0), found("cat", 36, 0)))).accepted


@pytest.mark.parametrize(
    ("named", "x", "y", "size", "accepted"),
    [
        (Named(size="small"), 10, 10, 30, True),
        (Named(size="small"), 10, 10, 40, False),
        (Named(size="big"), 6, 6, 50, True),
        (Named(size="big"), 6, 6, 40, False),
        (Named(place="top left"), 5, 2, 28, True),
        (Named(place="top left"), 18, 2, 28, False),
        (Named(place="top"), 18, 2, 28, True),
        (Named(place="middle"), 16, 20, 28, True),
        (Named(place="middle"), 6, 6, 52, True),
        (Named(place="bottom right"), 34, 35, 28, True),
        (Named(place="right"), 36, 0, 28, False),
    ],
)
def test_sizes_and_places(named, x, y, size, accepted):
    scene = Scene((Item("cat", None, 4, 4, 28),), "white", "noto", "one", named)
    assert verdict(scene, Reading("white", (found("cat", x, y, size),), 0)).accepted == accepted


def test_wilson_interval():
    share = Share(8, 10)
    assert share.interval == pytest.approx((0.490, 0.943), abs=1e-3)
    assert Share().interval == (0.0, 1.0)
    assert Share(10, 10).interval[1] == 1.0


def test_report_has_both_judges_and_their_error(scenes):
    pairs = [(scene, render(scene)) for scene in scenes[:20]] + [(scenes[0], render(scenes[1]))]
    report = score_drawings(pairs)
    assert report.n == 21 and set(report.first) == {scene.task for scene in scenes[:20]}
    assert 0.8 < report.mean < 1 and report.reasons["objects"] == 1
    assert report.agreement.value >= 0.9
    text = format_report(report)
    for word in ("first judge", "second judge", "they agree", "mean", "disc", "shuffled"):
        assert word in text


def test_the_shipped_error_table_covers_every_kind_and_meets_the_bars():
    error = measured_error()
    assert set(error) == {"true", "shuffled", *CORRUPTIONS}
    for judge_name in ("first", "second", "first blurred", "second blurred"):
        hits, n = error["true"][judge_name]
        assert hits / n >= 0.95 and n >= 300
        hits, n = error["shuffled"][judge_name]
        assert hits / n <= 0.01
    for kind in ("disc", "square", "other object", "missing", "extra", "recolored", "mirrored"):
        hits, n = error[kind]["first"]
        assert hits / n <= (0.03 if kind in ("disc", "square") else 0.02)


def test_scorer_error_counts(scenes):
    error = scorer_error(3, SEED)
    assert error["true"]["first"][1] == 3 and list(error)[:2] == ["true", "shuffled"]
    assert "sharp" in format_error(error)


def test_unknown_corruption_is_refused(scenes):
    with pytest.raises(ValueError, match="unknown corruption 'eaten'; expected one of disc"):
        corrupted(scenes[0], "eaten", np.random.default_rng(0))
