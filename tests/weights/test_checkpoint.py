"""Checkpoint folders: bit-identical round trips, and every kind of damage named."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from openjanus.testing import tiny_checkpoint
from openjanus.weights import checkpoint, tensors
from tests import tiny


@pytest.fixture
def folder(tmp_path):
    checkpoint.save(tiny.checkpoint(sampling={"guidance": 3.0}), tmp_path / "model")
    return tmp_path / "model"


def test_what_was_saved_comes_back_bit_for_bit(folder) -> None:
    again = checkpoint.load(folder)
    assert tiny.equal_trees(again.model.state_dict(), tiny.janus().state_dict())
    assert again.sampling == {"guidance": 3.0}
    assert again.processor.config == tiny.PROCESSOR
    assert again.model.config == tiny.CONFIG


def test_half_precision_is_stored_and_read_as_float32(tmp_path) -> None:
    checkpoint.save(tiny.checkpoint(), tmp_path / "half", torch.float16)
    again = checkpoint.load(tmp_path / "half").model.state_dict()
    for name, tensor in tiny.janus().state_dict().items():
        assert again[name].dtype == torch.float32
        torch.testing.assert_close(again[name], tensor.half().float(), rtol=0, atol=0)


def test_a_tied_head_is_stored_once_and_tied_again(tmp_path) -> None:
    tied = replace(tiny.CONFIG, language_model=replace(tiny.LANGUAGE_MODEL, tie_text_head=True))
    checkpoint.save(tiny.checkpoint(tied), tmp_path / "tied")
    assert "language_model.text_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    model = checkpoint.load(tmp_path / "tied").model.language_model
    assert model.text_head.weight is model.embedding.weight


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("generation.head.out.bias"), r"missing generation\.head\.out\.bias"),
        (lambda t: t.update(stranger=torch.zeros(1)), "unknown stranger"),
        (lambda t: t.update({"language_model.norm.weight": torch.zeros(7)}), r"norm\.weight has shape \[7\], expected"),
    ],
)
def test_a_missing_extra_or_misshaped_tensor_is_named(folder, change, message) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        checkpoint.load(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, 5000, -100])
def test_a_truncated_file_is_an_error_of_one_line(folder, kept) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="damaged or not safetensors"):
        checkpoint.load(folder)


def test_missing_files_and_unknown_keys_are_named(folder) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"]["language_model"]["num_layer"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"num_layer'; did you mean 'num_layers'"):
        checkpoint.load(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        checkpoint.load(folder)


def test_saving_over_a_folder_keeps_what_else_lies_there(folder) -> None:
    (folder / "README.md").write_text("card")
    checkpoint.save(tiny.checkpoint(), folder)
    assert (folder / "README.md").read_text() == "card"
    assert not [p for p in folder.parent.iterdir() if p != folder]


def test_a_failed_save_leaves_the_old_checkpoint(folder, monkeypatch) -> None:
    before = (folder / "model.safetensors").read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(tensors, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tiny.checkpoint(), folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert not [p for p in folder.parent.iterdir() if p != folder]


def test_a_failed_first_save_leaves_nothing(tmp_path, monkeypatch) -> None:
    def fail_half_way(tensors, path, *_) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(tensors, "save_file", fail_half_way)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tiny.checkpoint(), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_names_the_file(tmp_path, monkeypatch) -> None:
    def full(tensors, path, *_) -> None:
        raise SafetensorError("No space left on device")  # as safetensors says it, no OSError

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(OSError, match=r"model\.safetensors: cannot be written \(No space left on device\)"):
        checkpoint.save(tiny.checkpoint(), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_larger_than_the_model_is_refused(folder) -> None:
    small = replace(tiny.CONFIG, language_model=replace(tiny.LANGUAGE_MODEL, vocab_size=1000))
    checkpoint.save(tiny.checkpoint(small), folder)
    with pytest.raises(ValueError, match="the tokenizer has 1024 ids, the model only 1000"):
        checkpoint.load(folder)


def test_an_eye_is_taken_from_its_runs_newest_checkpoint(tmp_path) -> None:
    adaptor = tiny.janus().understanding.adaptor
    for step, value in (("00000009", 1.0), ("00000010", 2.0)):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
        tensors = {f"eye.{name}": torch.full_like(t, value) for name, t in adaptor.state_dict().items()}
        others = {"other.weight": torch.zeros(1), "eye.head.weight": torch.zeros(1)}
        save_file(tensors | others, tmp_path / "checkpoints" / step / "model.safetensors")
    with pytest.raises(ValueError, match=r"unknown eye\.head\.weight"):
        checkpoint.load_part(adaptor, str(tmp_path), "eye.")
    checkpoint.load_part(adaptor, str(tmp_path), "eye.", dropped=("head.*",))
    assert all((p == 2.0).all() for p in adaptor.parameters())
    draft = tmp_path / "killed" / "checkpoints" / ".draft-1"  # of a process that was killed while it saved
    draft.mkdir(parents=True)
    save_file(tensors, draft / "model.safetensors")
    for run in ("none", "killed"):
        with pytest.raises(ValueError, match="no checkpoint there; train it first"):
            checkpoint.load_part(adaptor, str(tmp_path / run), "eye.")


@pytest.mark.parametrize("form", ["official", "transformers"])
def test_pictures_first_is_kept_or_refused_but_never_lost(form, tmp_path) -> None:
    kept = checkpoint.load(tiny_checkpoint(tmp_path / "model"))
    kept.processor.config = replace(kept.processor.config, pictures_first=True)
    checkpoint.save(kept, tmp_path / "ours")
    assert checkpoint.load(tmp_path / "ours").processor.config.pictures_first
    with pytest.raises(ValueError, match=f"the {form} format has no place for .*pictures_first"):
        checkpoint.save(kept, tmp_path / "theirs", form=form)
    assert not (tmp_path / "theirs").exists()
