"""openjanus data check, as a user runs it: what it prints, what it writes, and how it ends."""

import pytest
from PIL import Image

from openjanus.cli import main
from tests.readers.files import picture, write_jsonl, write_pictures


def test_good_data(tmp_path, capsys) -> None:
    write_pictures(tmp_path / "my", range(8))
    picture(9, (60, 20)).save(tmp_path / "my" / "9.png")
    captions = [{"file_name": f"{n}.png", "text": f"a red cat {n}"} for n in (*range(8), 9)]
    write_jsonl(tmp_path / "my" / "metadata.jsonl", captions)
    main(["data", "check", str(tmp_path / "my"), "--out", str(tmp_path / "report")])
    told = capsys.readouterr().out
    assert "9 records, 0 unusable" in told and "9 caption" in told and "9 drawn, 9 answered" in told
    assert "User: a red cat 0\\n\\nAssistant:<begin_of_image>[[<image ids, 64 positions>]]<end_of_image>" in told
    assert "<picture, 64 positions>" in told and "[[ a red cat 0" in told and "no faults" in told
    assert (tmp_path / "report" / "report.txt").read_text().strip() == told.strip()
    with Image.open(tmp_path / "report" / "targets.png") as sheet:
        sheet.load()
        assert sheet.width > 700  # four in a row


def test_every_planted_fault_is_found(tmp_path, capsys) -> None:
    write_pictures(tmp_path, range(4))
    (tmp_path / "3.png").write_bytes(b"no picture")
    records = [
        {"file_name": "0.png", "text": "a cat", "licence": "mine"},
        {"file_name": "1.png", "text": ""},
        {"file_name": "missing.png", "text": "a cat"},
        {"file_name": "3.png", "text": "a cat"},
        {"file_name": "0.png", "text": "a cat " * 200},
        {"file_nam": "2.png", "text": "a cat"},
        "{",
    ]
    write_jsonl(tmp_path / "metadata.jsonl", records)
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", str(tmp_path), "--row-tokens", "256", "--use", "draw"])
    assert ended.value.code == 2
    told = capsys.readouterr()
    for number, what in [(2, "no caption"), (3, "missing.png: no such file"), (4, "3.png: not a readable picture"),
                         (5, "longer than a row of 256"), (7, "not JSON")]:  # fmt: skip
        assert any(f"metadata.jsonl:{number}: " in line and what in line for line in told.out.splitlines()), what
    assert "not used: key 'licence' of 1 records, first in" in told.out and "key 'file_nam'" in told.out
    assert "1 occur again" in told.out
    assert "does not name this picture" in told.out  # 1.png and 2.png
    assert told.err.strip().splitlines()[-1].startswith("error: ") and "faults; see above" in told.err


def test_what_is_no_data(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", str(tmp_path / "nothing")])
    assert ended.value.code == 2 and "no such file or folder" in capsys.readouterr().err
