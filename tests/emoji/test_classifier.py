"""The second judge: it trains, its weights are small, and the shipped ones know the world."""

import numpy as np
import pytest
import torch

from openjanus.emoji import classifier
from openjanus.emoji.classifier import CROP_PX, classifier_accuracy, crop_of, relabel, train_classifier
from openjanus.emoji.scene_reader import read_scene
from openjanus.emoji.world import render, sample_scene


def test_training_is_reproducible_and_saves_small_weights(tmp_path):
    one = train_classifier(5, 3, 8, tmp_path / "a.safetensors", log=lambda line: None)
    two = train_classifier(5, 3, 8, tmp_path / "b.safetensors", log=lambda line: None)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert (tmp_path / "a.safetensors").stat().st_size <= 400_000


def test_shipped_weights_know_the_world():
    assert classifier.WEIGHTS.stat().st_size <= 400_000
    accuracy = classifier_accuracy(500, 11)
    assert accuracy["object"] >= 0.9 and accuracy["color"] >= 0.9 and accuracy["garbage refused"] >= 0.85


def test_boxes_of_true_scenes_get_their_names():
    right = []
    for index in range(40):
        scene = sample_scene("seen", 41, index)
        image = render(scene)
        named = relabel(image, read_scene(image))
        key = lambda item: (str(item.object), str(item.color))  # noqa: E731
        right.append(sorted(map(key, named.items)) == sorted(map(key, scene.items)))
    assert np.mean(right) >= 0.95


def test_a_crop_at_the_corner_is_filled_with_background():
    image = np.zeros((64, 64, 3), np.uint8)
    crop = crop_of(image, "white", 0, 0, 28)
    assert crop.shape == (CROP_PX, CROP_PX, 3)
    assert (crop[:2] == 255).all() and (crop[2:, 2:] == 0).all()


def test_missing_weights_say_how_to_make_them(tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "WEIGHTS", tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"train it with python -m openjanus\.emoji\.classifier"):
        classifier.shipped_classifier.__wrapped__()
