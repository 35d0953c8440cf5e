"""Exact match after normalisation, and the majority baseline beside it."""

import pytest

from openjanus.emoji.answer_score import format_answers, normalised, score_answers


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("A cat.", "cat"), ("two", "2"), (" Top  Left ", "top left"), ("the red car", "red car"), ("an owl", "owl")],
)
def test_normalised(given, wanted):
    assert normalised(given) == normalised(wanted) == wanted


def test_kinds_are_scored_apart_with_their_majority():
    triples = [("color", "red", "red"), ("color", "red", "blue"), ("color", "Red.", "red"), ("how_many", "three", "3")]
    scores = score_answers(triples)
    assert scores["color"].exact == pytest.approx(2 / 3) and scores["color"].majority == pytest.approx(2 / 3)
    assert scores["how_many"].exact == 1.0
    assert scores["mean"].exact == pytest.approx(5 / 6) and scores["mean"].n == 4
    assert "majority" in format_answers(scores)


def test_no_answers_no_scores():
    assert score_answers([]) == {}
