"""The evaluation, of models that are always right or always wrong."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from openjanus.emoji import world
from openjanus.emoji.edits import sample_edit
from openjanus.emoji.world_report import ANSWER_SPLITS, EDIT_SPLITS, FORMS, WorldReport, _asked, report_on_world
from openjanus.processing.message import Conversation

N = 4


def picture(scene: world.Scene) -> Image.Image:
    return Image.fromarray(world.render(scene))


class Oracle:
    """Knows what it is asked: the examples come in the order of their numbers, split by split."""

    def __init__(self, is_right: bool):
        self.is_right = is_right
        self.drawn, self.edited = iter(("seen", "heldout_color", "heldout_pair")), iter(EDIT_SPLITS)
        self.asked: list[Conversation] = []

    def draw(self, captions: Sequence[str]) -> list[Image.Image]:
        split = next(self.drawn)
        shift = 0 if self.is_right else 1000
        return [picture(world.sample_scene(split, 5, index + shift)) for index in range(len(captions))]

    def answer(self, conversations: Sequence[Conversation]) -> list[str]:
        self.asked += conversations
        return ["?"] * len(conversations)

    def redraw(self, pictures: Sequence[np.ndarray]) -> list[Image.Image]:
        return [Image.fromarray(each) for each in pictures]

    def change(self, asked: Sequence[tuple[Image.Image, str]]) -> list[Image.Image]:
        if not self.is_right:
            return [image for image, _ in asked]
        split = next(self.edited)
        return [picture(sample_edit(split, 5, index).after) for index in range(len(asked))]


def report(oracle: Oracle, edits: bool = True) -> WorldReport:
    changes = oracle.change if edits else None
    return report_on_world(oracle.draw, oracle.answer, oracle.redraw, N, 5, {"guidance": 1.0}, changes)


@pytest.mark.parametrize("is_right", [True, False])
def test_what_is_right_is_accepted_and_what_is_wrong_is_not(is_right) -> None:
    found = report(Oracle(is_right))
    for split in EDIT_SPLITS:
        assert (found.edits[split]["all"].hits, found.edits[split]["all"].n) == (N * is_right, N)
        assert sum(share.n for kind, share in found.edits[split].items() if kind != "all") == N
        drawn = found.drawings[split].first.values()
        assert (sum(share.hits for share in drawn) == N) == is_right
        assert sum(share.hits for share in found.reconstructions[split].first.values()) == N
    figures = found.figures()
    assert set(figures["edits"]) == set(EDIT_SPLITS) and set(figures["reconstructions"]) == set(EDIT_SPLITS)
    assert "== edits, heldout_pair ==" in found.text and "alone, heldout_color ==" in found.text


def test_a_model_that_does_not_edit_has_no_scores_of_edits() -> None:
    found = report(Oracle(True), edits=False)
    assert found.edits == {} and "edits" not in found.text


def test_each_question_is_asked_in_every_form() -> None:
    oracle = Oracle(True)
    found = report(oracle)
    assert set(found.answers) == {f"{split}, {form}" for split in ANSWER_SPLITS for form in FORMS}
    assert len(oracle.asked) == N * len(ANSWER_SPLITS) * len(FORMS)
    first, words, after = (_asked("seen", 5, 2, form) for form in FORMS)
    assert first[0].content[0].tobytes() == words[0].content[1].tobytes() and first[0].content[1] == words[0].content[0]
    assert len(first) == len(words) == 1 and [m.role for m in after] == ["user", "assistant"] * 2 + ["user"]
    assert after[-1].content[1] == first[0].content[1] and all(len(m.content) == 1 for m in after[1::2])


def test_no_examples_are_refused() -> None:
    oracle = Oracle(True)
    with pytest.raises(ValueError, match="n is 0, expected 1 or more"):
        report_on_world(oracle.draw, oracle.answer, oracle.redraw, 0, 5)
