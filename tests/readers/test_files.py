"""Every format of users' data: ten good examples are read as they are meant, and each planted fault is named."""

import base64
import json
import re

import pytest

from openjanus.readers.records import Fault
from tests.readers.files import NUM, contents, png, read, write_jsonl, write_pictures, write_tar


def captions() -> list[tuple[str, list]]:
    return [("assistant", [png(n), f"picture {n}"]) for n in range(NUM)]


def faults_by_place(faults: list[Fault]) -> dict[str, str]:
    """What is wrong, by the end of the place: `metadata.jsonl:3`."""
    return {fault.where.rpartition("/")[2]: fault.what for fault in faults}


# --- a folder of captioned pictures


def test_metadata_jsonl(tmp_path) -> None:
    write_pictures(tmp_path, range(NUM + 2))
    (tmp_path / "broken.png").write_bytes(png(0)[:40])
    records = [{"file_name": f"{n}.png", "text": f" picture {n}\n", "label": n} for n in range(NUM)]
    bad = ["{not json", {"file_name": "10.png"}, {"file_name": "10.png", "text": "  "}, {"file_name": 3, "text": "x"}]
    bad += ['"words"', {"file_name": "10.png", "txet": "a"}, {"file_name": "https://a.org/b.png", "text": "x"}]
    write_jsonl(tmp_path / "metadata.jsonl", [*records, *bad])
    rows, faults = read(tmp_path)
    assert [contents(row) for row in rows] == [[turn] for turn in captions()]
    assert rows[3].kind == "caption" and rows[3].unknown == ("label",)
    assert rows[3].where == f"{tmp_path / 'metadata.jsonl'}:4"
    found = faults_by_place(faults)
    assert "not JSON" in found["metadata.jsonl:11"]
    assert "no caption" in found["metadata.jsonl:12"] and "text is empty" in found["metadata.jsonl:13"]
    assert "expected the path of a file" in found["metadata.jsonl:14"] and "is str" in found["metadata.jsonl:15"]
    assert "'txet'" in found["metadata.jsonl:16"] and "no remote pictures" in found["metadata.jsonl:17"]
    assert {"10.png", "11.png", "broken.png"} < set(found)  # nothing names them
    assert len(found) == len(faults) == len(bad) + 3


def test_metadata_csv_and_subfolders(tmp_path) -> None:
    write_pictures(tmp_path / "a")
    lines = ["file_name,text", *(f'a/{n}.png,"picture {n}"' for n in range(NUM)), "a/1.png,", "a/1.png,two,cells"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines), "utf-8-sig")  # as spreadsheets write it
    rows, faults = read(tmp_path)
    assert [contents(row) for row in rows] == [[turn] for turn in captions()]
    found = faults_by_place(faults)
    assert "no caption" in found["metadata.csv:12"] and "more cells than the 2 columns" in found["metadata.csv:13"]


def test_pictures_with_text_files_beside_them(tmp_path) -> None:
    write_pictures(tmp_path, range(NUM + 3))
    for n in range(NUM):
        (tmp_path / f"{n}.txt").write_text(f"picture {n}\n")
    (tmp_path / "11.txt").write_text("")
    (tmp_path / "12.txt").write_bytes(b"\xff\xfe\xff")
    rows, faults = read(tmp_path)
    assert sorted(contents(row)[0][1][1] for row in rows) == sorted(f"picture {n}" for n in range(NUM))
    found = faults_by_place(faults)
    assert "expected 10.txt beside it" in found["10.png"] and "no caption" in found["11.png"]
    assert "cannot be read" in found["12.txt"]


# --- chats


def test_chats_with_marks_and_with_typed_parts(tmp_path) -> None:
    write_pictures(tmp_path / "img")
    url = f"data:image/png;base64,{base64.b64encode(png(4)).decode()}"
    asked = {"role": "user", "content": "<image>what is it?"}
    answered = {"role": "assistant", "content": "a cat"}
    records = [
        {"messages": [asked, answered], "images": ["img/0.png"]},
        {"messages": [{"role": "user", "content": "what is it?"}, answered], "images": ["img/1.png"]},
        {"messages": [{"role": "user", "content": "what is <image> beside <image> ?"}, answered],
         "images": ["img/2.png", "img/3.png"]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}},
                                                   {"type": "text", "text": "what is it?"}]}, answered]},
        {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "and?"}]}, answered],
         "images": ["img/5.png"]},
        {"messages": [{"role": "user", "content": "a blue car"}, {"role": "assistant", "content": "<image>"}],
         "images": ["img/6.png"]},
        {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}, answered]},
        {"messages": [{"role": "user", "content": "<image>make it blue"}, {"role": "assistant", "content": "<image>"}],
         "images": ["img/7.png", "img/8.png"]},
        {"messages": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "a cat"}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "img/9.png"}, "what?"]}, answered]},
    ]  # fmt: skip
    bad = [
        {"messages": [asked, answered]},
        {"messages": [asked, answered], "images": ["img/0.png", "img/1.png"]},
        {"messages": [{"role": "robot", "content": "hi"}, answered]},
        {"messages": [{"role": "user", "content": "hi"}]},
        {"messages": [answered]},
        {"messages": [{"role": "user", "content": ""}, answered]},
        {"messages": "hi"},
        {"messages": [{"role": "user", "content": [{"type": "video"}]}, answered]},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "system", "content": "late"}, answered]},
        {"messages": [{"role": "user", "content": 3}, answered]},
    ]
    rows, faults = read(write_jsonl(tmp_path / "chat.jsonl", [*records, *bad]))
    user = [contents(row)[-2][1] for row in rows]
    assert user[0] == [png(0), "what is it?"] and user[1] == [png(1), "what is it?"]
    assert user[2] == ["what is", png(2), "beside", png(3), "?"] and user[3] == [png(4), "what is it?"]
    assert user[4] == [png(5), "and?"] and user[7] == [png(7), "make it blue"] and user[9] == [png(9), "what?"]
    assert contents(rows[5]) == [("user", ["a blue car"]), ("assistant", [png(6)])]
    assert [row.draws for row in rows] == [False] * 5 + [True, False, True, False, False]
    assert [row.edits for row in rows] == [False] * 7 + [True, False, False]
    assert [role for role, _ in rows[6].turns] == ["system", "user", "assistant"]
    expected = ["1 marks <image> for 0 pictures", "1 marks <image> for 2 pictures", "role 'robot'"]
    expected += ["the assistant says nothing", "the user says nothing", "turn 1, of the user, is empty"]
    expected += ["messages is str", "a part is", "turn 2 is of the system", "a part is '3'"]
    assert len(faults) == len(expected)
    for number, (fault, what) in enumerate(zip(faults, expected, strict=True), start=NUM + 1):
        assert fault.where.endswith(f"chat.jsonl:{number}") and what in fault.what


def test_llava_conversations_in_one_list(tmp_path) -> None:
    write_pictures(tmp_path)
    said = [{"from": "human", "value": "<image>\nwhat is it?"}, {"from": "gpt", "value": "a cat"}]
    records = [{"id": n, "image": f"{n}.png", "conversations": said} for n in range(NUM)]
    (tmp_path / "llava.json").write_text(json.dumps([*records, {"conversations": said}, []]))
    rows, faults = read(tmp_path / "llava.json")
    assert [contents(row) for row in rows] == [
        [("user", [png(n), "what is it?"]), ("assistant", ["a cat"])] for n in range(NUM)
    ]
    assert rows[0].unknown == ("id",)
    assert [fault.where.rpartition(":")[2] for fault in faults] == ["[11]", "[12]"]
    (tmp_path / "llava.json").write_text('{"conversations": []}')
    with pytest.raises(ValueError, match="holds dict, expected a list of records"):
        read(tmp_path / "llava.json")


def test_questions_edits_and_texts(tmp_path) -> None:
    write_pictures(tmp_path)
    edit = {"input_image": ["0.png"], "output_image": "1.png", "input_prompt": "make it blue"}
    records = [
        *({"image": f"{n}.png", "question": "what is it?", "answer": f"a {n}"} for n in range(5)),
        {"prompt": "hi", "response": "hello"},
        edit,
        {"output_image": "2.png", "input_prompt": "a blue car"},
        {"text": "a text"},
        {"image": "3.png", "prompt": "what is <image> ?", "response": "a cat"},
    ]
    bad = [{"output_image": "2.png"}, {"text": 3}, {"a": 1}, {}, {"image": ["1.png", "2.png"], "text": "two"}]
    rows, faults = read(write_jsonl(tmp_path / "mixed.jsonl", [*records, *bad]))
    assert [row.kind for row in rows] == ["question"] * 5 + ["chat", "edit", "drawing", "text", "question"]
    assert contents(rows[2]) == [("user", [png(2), "what is it?"]), ("assistant", ["a 2"])]
    assert contents(rows[6]) == [("user", [png(0), "make it blue"]), ("assistant", [png(1)])] and rows[6].edits
    assert contents(rows[7]) == [("user", ["a blue car"]), ("assistant", [png(2)])] and not rows[7].edits
    assert contents(rows[8]) == [("text", ["a text"])]
    assert contents(rows[9])[0] == ("user", ["what is", png(3), "?"])
    expected = [
        "an edit has no words",
        "text is int",
        "has 'a'; expected",
        "has no value",
        "2 pictures have one caption",
    ]
    assert [bool(re.search(what, f.what)) for what, f in zip(expected, faults, strict=True)] == [True] * 5


# --- archives


def test_webdataset_tar(tmp_path) -> None:
    members: dict[str, bytes] = {}
    for n in range(8):
        members |= {f"a/{n:04}.png": png(n), f"a/{n:04}.txt": f"picture {n}".encode()}
    members |= {"0008.jpg": png(8), "0008.json": b'{"caption": "picture 8", "width": 20}'}
    chat = {"conversations": [{"from": "human", "value": "<image>what?"}, {"from": "gpt", "value": "a cat"}]}
    members |= {"0009.png": png(9), "0009.json": json.dumps(chat).encode()}
    bad = {"0010.png": png(1), "0011.txt": b"\xff\xff", "0012.png": png(1), "0012.json": b"{", "0013.json": b"[]"}
    rows, faults = read(write_tar(tmp_path / "shard.tar", members | bad))
    assert [contents(row) for row in rows[:9]] == [[turn] for turn in captions()[:9]]
    assert contents(rows[9]) == [("user", [png(9), "what?"]), ("assistant", ["a cat"])]
    assert [fault.where.rpartition(":")[2] for fault in faults] == ["0010", "0011", "0012", "0013"]
    (tmp_path / "other.tar").write_bytes(b"no tar file")
    _, faults = read(tmp_path)  # both shards, in the order of their names
    assert "not a readable tar file" in faults[0].what and len(faults) == 5


def test_parquet_with_pictures_inside(tmp_path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    cells = [{"bytes": png(n), "path": f"{n}.png"} for n in range(NUM)]
    words = [f"picture {n}" for n in range(NUM)]
    table = arrow.table({"image": [*cells, cells[0]], "text": [*words, ""], "width": [20] * 11})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    rows, faults = read(tmp_path / "a.parquet")
    assert [contents(row) for row in rows] == [[turn] for turn in captions()]
    assert rows[9].where.endswith("a.parquet:9") and rows[9].unknown == ("width",)
    assert len(faults) == 1 and faults[0].where.endswith("a.parquet:10") and "no caption" in faults[0].what
    chats = [[{"role": "user", "content": "<image>what?"}, {"role": "assistant", "content": "a cat"}]] * 2
    parquet.write_table(arrow.table({"images": [[cells[0]], [cells[1]]], "messages": chats}), tmp_path / "b.parquet")
    rows, faults = read(tmp_path / "b.parquet")
    assert [contents(row)[0] for row in rows] == [("user", [png(n), "what?"]) for n in range(2)] and not faults
    (tmp_path / "c.parquet").write_bytes(b"none")
    _, faults = read(tmp_path / "c.parquet")
    assert "not a readable parquet file" in faults[0].what


def test_a_data_set_of_the_hub(tmp_path, monkeypatch) -> None:
    """The library itself, with a data set from a folder instead of the network."""
    import datasets

    write_pictures(tmp_path / "set")
    write_jsonl(
        tmp_path / "set" / "metadata.jsonl", [{"file_name": f"{n}.png", "text": f"picture {n}"} for n in range(NUM)]
    )
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    table = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "set"), split="train")
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: asked.append((name, split)) or table)
    rows, faults = read("hub:someone/pictures:validation")
    assert asked == [("someone/pictures", "validation")] and not faults
    assert [contents(row) for row in rows] == [[turn] for turn in captions()]

    def fail(name: str, split: str):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(ValueError, match="hub:a/b: cannot be loaded \\(no route to host\\)"):
        read("hub:a/b")


# --- what is no data


def test_what_cannot_be_read_is_told_at_once(tmp_path) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        read(tmp_path / "nothing")
    with pytest.raises(ValueError, match="nothing to read in it \\(it is empty\\)"):
        read(tmp_path)
    (tmp_path / "model.bin").touch()
    with pytest.raises(ValueError, match=r"nothing to read in it \(\.bin\); expected metadata"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"unknown format; expected a folder, \.jsonl"):
        read(tmp_path / "model.bin")
