"""A user's data as a source: sides, epochs, directions, crops, and what is told of data that cannot be used."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from openjanus.data.config import DataConfig
from openjanus.readers.dataset import _groups, first_sentence, open_data, random_square
from tests.readers.files import picture, png, write_jsonl, write_pictures


def captioned(folder, num: int = 40, extra=()) -> str:
    write_pictures(folder, range(num))
    write_jsonl(folder / "metadata.jsonl", [{"file_name": f"{n}.png", "text": f"picture {n}."} for n in range(num)])
    for path, content in extra:
        (folder / path).write_bytes(content)
    return str(folder)


def words_of(conversation) -> str:
    return next(part for message in conversation for part in message.content if isinstance(part, str))


def test_each_epoch_has_every_example_once_in_an_order_of_its_own(tmp_path) -> None:
    data = open_data(DataConfig(captioned(tmp_path), use="draw", held_out=0.0))
    source = data.source("train", seed=3)
    epochs = [[words_of(source(epoch * 40 + place)) for place in range(40)] for epoch in range(3)]
    assert all(Counter(epoch) == Counter(epochs[0]) and len(set(epoch)) == 40 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    again = open_data(DataConfig(str(tmp_path), use="draw", held_out=0.0)).source("train", seed=3)
    assert [words_of(again(index)) for index in range(40, 80)] == epochs[1]
    assert [words_of(data.source("train", seed=4)(index)) for index in range(40)] != epochs[0]


@pytest.mark.parametrize(
    ("use", "roles"), [("draw", {"assistant"}), ("describe", {"user"}), ("both", {"user", "assistant"})]
)
def test_captions_are_drawn_described_or_both(tmp_path, use, roles) -> None:
    data = open_data(DataConfig(captioned(tmp_path, 10), use=use, held_out=0.0, question="What?"))
    source, seen = data.source("train", 0), Counter()
    for index in range(len(data.examples("train"))):
        conversation = source(index)
        assert [message.role for message in conversation] == ["user", "assistant"]
        (role,) = (m.role for m in conversation if any(isinstance(part, Image.Image) for part in m.content))
        if role == "user":
            assert conversation[0].content[1] == "What?" and conversation[1].content[0].startswith("picture")
        seen[role] += 1
    assert seen == Counter(dict.fromkeys(roles, 10))


def test_the_held_out_side_depends_on_the_pictures_only(tmp_path) -> None:
    data = open_data(DataConfig(captioned(tmp_path / "a", 200), use="draw", held_out=0.2))
    held_out = {example.row.words for example in data.examples("held_out")}
    assert 20 < len(held_out) < 60 and len(data.examples("train")) + len(held_out) == 200
    write_pictures(tmp_path / "b", range(100))
    renamed = [{"file_name": f"{n}.png", "text": f"picture {n}."} for n in reversed(range(100))]
    write_jsonl(tmp_path / "b" / "metadata.jsonl", renamed)
    other = open_data(DataConfig(str(tmp_path / "b"), use="draw", held_out=0.2))
    first_half = {f"picture {n}." for n in range(100)}
    assert {example.row.words for example in other.examples("held_out")} == held_out & first_half


def test_pictures_that_occur_again_are_on_one_side(tmp_path) -> None:
    """Ten captions each of 30 pictures, and two chats that join pictures."""
    write_pictures(tmp_path, range(30))
    records = [{"file_name": f"{n % 30}.png", "text": f"{n % 30} {n}"} for n in range(300)]
    write_jsonl(tmp_path / "metadata.jsonl", records)
    data = open_data(DataConfig(str(tmp_path), use="draw", held_out=0.3))
    sides = [{example.row.words.split()[0] for example in data.examples(side)} for side in ("train", "held_out")]
    assert all(sides) and not sides[0] & sides[1]
    groups = _groups([["a"], ["a", "b"], ["c"], ["b", "d"], ["e", "c"]])
    assert groups[0] == groups[1] == groups[3] != groups[2] == groups[4]


def test_faults_are_an_error_or_counted(tmp_path) -> None:
    path = captioned(tmp_path, 10, [("3.png", png(3)[:50]), ("lost.png", png(1))])
    (tmp_path / "5.png").unlink()
    with pytest.raises(
        ValueError, match=r"3 of 11 examples cannot be used: .*3\.png.*5\.png: no such file.*data check"
    ) as e:
        open_data(DataConfig(path))
    assert "\n" not in str(e.value)
    data = open_data(DataConfig(path, use="draw", held_out=0.0, skip_bad=True))
    assert len(data.examples("train")) == 8 and len(data.faults) == 3
    with pytest.raises(ValueError, match="no example is in the part held_out"):
        data.source("held_out", 0)
    for file in tmp_path.glob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="holds no example that can be used"):
        open_data(DataConfig(path, skip_bad=True))


def test_a_picture_that_changed_is_read_again(tmp_path) -> None:
    path = captioned(tmp_path, 4)
    before = open_data(DataConfig(path)).digests
    assert open_data(DataConfig(path)).digests == before
    picture(77).save(tmp_path / "2.png")
    after = open_data(DataConfig(path)).digests
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, True]
    (tmp_path / "1.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"1\.png: not a readable picture"):
        open_data(DataConfig(path))


def test_what_is_drawn_of_a_picture_that_is_not_square(tmp_path) -> None:
    wide = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (50, 1, 3)))
    assert random_square(wide, "0" * 32).size == (50, 50)
    lefts = [np.asarray(random_square(wide, f"{n:02x}" + "0" * 30))[0, 0, 0] for n in range(0, 256, 32)]
    assert lefts[0] == 0 and lefts == sorted(set(lefts)) and lefts[-1] > 120
    wide.save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a ramp")
    drawn = {}
    for crop in ("centre", "random"):
        data = open_data(DataConfig(str(tmp_path), use="draw", held_out=0.0, crop=crop))
        drawn[crop] = data.source("train", 0)(0)[1].content[0]
    assert drawn["centre"].size == (200, 50)  # the image tokenizer takes its middle
    assert drawn["random"].size == (50, 50)


@pytest.mark.parametrize(
    ("words", "first"),
    [("One. Two.", "One."), ("3.5 cats? Yes", "3.5 cats?"), ("no end", "no end"), ("一。二", "一。"), ("One.", "One.")],
)
def test_first_sentence(words, first) -> None:
    assert first_sentence(words) == first


def test_captions_are_cut_at_a_rate(tmp_path) -> None:
    write_pictures(tmp_path, range(1))
    (tmp_path / "0.txt").write_text("One. Two.")
    source = open_data(DataConfig(str(tmp_path), use="draw", held_out=0.0, first_sentence=0.25)).source("train", 0)
    counts = Counter(words_of(source(index)) for index in range(400))
    assert set(counts) == {"One.", "One. Two."} and 70 < counts["One."] < 130
