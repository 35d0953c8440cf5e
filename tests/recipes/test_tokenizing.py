"""Ids of a user's data made before a training: all drawings, in parts, once, and the training encodes none again."""

import pytest

from openjanus.cli import main
from openjanus.data.config import DataConfig
from openjanus.recipes.tokenizing import tokenize_data
from openjanus.testing import tiny_checkpoint
from openjanus.weights import checkpoint
from tests.readers.files import write_jsonl, write_pictures


@pytest.fixture
def data(tmp_path) -> DataConfig:
    """Six captions, an edit of two more pictures, and a question about a ninth."""
    write_pictures(tmp_path / "my", range(9))
    records = [{"image": f"{n}.png", "text": f"picture {n}"} for n in range(6)]
    records += [{"input_image": "6.png", "output_image": "7.png", "prompt": "make it blue"}]
    records += [{"image": "8.png", "question": "what?", "answer": "a cat"}]
    return DataConfig(str(write_jsonl(tmp_path / "my" / "data.jsonl", records)))


def test_what_is_drawn_or_edited_is_encoded_once(data, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OPENJANUS_CACHE", str(tmp_path / "cache"))
    tokenizer = checkpoint.load(tiny_checkpoint(tmp_path / "base")).model.generation.tokenizer
    first = tokenize_data(tokenizer, data, 0, 2)
    assert 0 < first < 8
    assert tokenize_data(tokenizer, data, 1, 2) == 8 - first
    assert tokenize_data(tokenizer, data) == 0
    assert len(list((tmp_path / "cache" / "image_ids").rglob("*.safetensors"))) == 2


def test_the_command(data, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("OPENJANUS_CACHE", str(tmp_path / "cache"))
    base = tiny_checkpoint(tmp_path / "base")
    words = ["finetune.lora", f"start={base}", f"data={data.path}"]
    main(["tokenize", *words])
    assert "data: 8 pictures were new" in capsys.readouterr().out
    main(["tokenize", *words, "--part", "1/2"])
    assert "data: 0 pictures were new" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["tokenize", *words, "--part", "3/2"])
    assert "--part '3/2': expected such as 2/8" in capsys.readouterr().err
