"""Writing a checkpoint folder: where a draft lies, what a failure leaves behind, and values that no file may hold."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import openjanus
from openjanus.cli import main
from openjanus.processing.image import PixelConfig
from openjanus.processing.processor import ProcessorConfig
from openjanus.testing import tiny_checkpoint
from openjanus.training.janus import JanusTraining, janus_training
from openjanus.weights import checkpoint
from openjanus.weights.config import Checkpoint
from tests import tiny

TENSOR = "language_model.layers.1.ffn.up.weight"
OFFICIAL_TENSOR = "language_model.model.layers.1.mlp.up_proj.weight"


def with_value(value: float, name: str = TENSOR) -> Checkpoint:
    made = tiny.checkpoint()
    made.model.get_parameter(name).view(-1)[5] = value
    return made


def set_value(file: Path, name: str, value: float) -> None:
    stored = load_file(file)
    stored[name].view(-1)[5] = value
    save_file(stored, file)


def error_of(capsys, *words: object) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 2
    return " ".join(capsys.readouterr().err.split())


# --- where


def test_a_folder_is_written_where_only_it_can_be_written(tmp_path, monkeypatch) -> None:
    """As a mounted volume, or a folder whose parent is read-only: nothing but the folder itself is touched."""
    target = tmp_path / "parent" / "volume"
    target.mkdir(parents=True)
    real_mkdir, real_replace = Path.mkdir, os.replace

    def mkdir(self, *args, **kwargs) -> None:
        if not self.exists() and target not in self.parents:
            raise PermissionError(13, "Permission denied", str(self))
        real_mkdir(self, *args, **kwargs)

    def replace_in_volume(source, destination) -> None:
        for path in map(Path, (source, destination)):
            if target not in path.parents:
                raise OSError(18, "Invalid cross-device link", str(path))
        real_replace(source, destination)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(os, "replace", replace_in_volume)
    checkpoint.save(tiny.checkpoint(), target)
    assert tiny.equal_trees(checkpoint.load(target).model.state_dict(), tiny.janus().state_dict())
    assert sorted(p.name for p in target.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_folder_is_written_through_a_link_and_as_the_working_directory(tmp_path, monkeypatch) -> None:
    checkpoint.save(tiny.checkpoint(), tmp_path / "source")
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    main(["convert", str(tmp_path / "source"), str(tmp_path / "link")])
    assert (tmp_path / "link").is_symlink() and checkpoint.load(tmp_path / "disk")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    main(["convert", str(tmp_path / "source"), "."])
    assert checkpoint.load(tmp_path / "here") and sorted(os.listdir(tmp_path)) == ["disk", "here", "link", "source"]


def test_a_folder_that_cannot_be_written_is_refused_before_the_source_is_read(tmp_path, capsys) -> None:
    (tmp_path / "file").touch()
    assert "cannot write into it" in error_of(capsys, "convert", tmp_path / "nowhere", tmp_path / "file")


def test_a_failure_between_two_files_leaves_no_folder_that_looks_whole(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "model"
    checkpoint.save(tiny.checkpoint(), folder)
    real = os.replace

    def fail_at_the_tokenizer(source, destination) -> None:
        if Path(destination) == folder / "tokenizer.json":
            raise OSError("disk full")
        real(source, destination)

    monkeypatch.setattr(os, "replace", fail_at_the_tokenizer)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tiny.checkpoint(), folder)
    with pytest.raises(ValueError, match=r"no config\.json"):
        checkpoint.load(folder)
    assert not list(folder.glob(".*"))


def test_a_killed_save_leaves_no_folder_that_looks_whole_and_the_next_one_cleans_up(tmp_path) -> None:
    source, folder = tiny_checkpoint(tmp_path / "source"), tmp_path / "model"
    kill_half_way = f"""
import os, signal
from pathlib import Path
from openjanus.training.janus import JanusTraining, janus_training
from openjanus.weights import checkpoint
real = checkpoint.write_tensors
def write_and_die(*arguments):
    real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
checkpoint.write_tensors = write_and_die
checkpoint.save(checkpoint.load({str(source)!r}), Path({str(folder)!r}))
"""
    assert subprocess.run([sys.executable, "-c", kill_half_way], check=False).returncode < 0
    assert list(folder.glob(".draft-*"))
    with pytest.raises(ValueError, match=r"no config\.json"):
        checkpoint.load(folder)
    shutil.copytree(source, folder, dirs_exist_ok=True)
    checkpoint.save(checkpoint.load(source), folder)
    assert not list(folder.glob(".*")) and checkpoint.load(folder)


def test_a_damaged_index_does_not_stop_a_save(tmp_path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("{")
    checkpoint.save(tiny.checkpoint(), tmp_path)
    assert not (tmp_path / "model.safetensors.index.json").exists() and checkpoint.load(tmp_path)


def test_a_head_that_a_pickled_file_ties_is_stored_again(tmp_path) -> None:
    """torch.save keeps both names of a shared tensor, on one memory."""
    folder = tiny_checkpoint(tmp_path / "model", "official")
    stored = load_file(folder / "model.safetensors")
    stored["language_model.lm_head.weight"] = stored["language_model.model.embed_tokens.weight"]
    torch.save(stored, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    main(["convert", str(folder), str(tmp_path / "new")])
    again = checkpoint.load(tmp_path / "new").model.language_model
    assert torch.equal(again.text_head.weight, again.embedding.weight)


# --- what


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(float("nan"), torch.bfloat16), (float("inf"), torch.float32), (float("-inf"), torch.float16)],
)
def test_weights_that_are_not_finite_are_refused_at_load_and_at_save(value, dtype, tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "official", dtype=dtype)
    set_value(folder / "model.safetensors", OFFICIAL_TENSOR, value)
    for load in (lambda: checkpoint.load(folder, dtype=None), lambda: openjanus.load(folder, "cpu", "int8")):
        with pytest.raises(ValueError, match=rf"model: {OFFICIAL_TENSOR} holds NaN or infinite values"):
            load()
    with pytest.raises(ValueError, match=f"{TENSOR} holds NaN or infinite values"):
        checkpoint.save(with_value(value), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_eye_that_is_not_finite_is_refused(tmp_path) -> None:
    adaptor = tiny.janus().understanding.adaptor
    folder = tmp_path / "checkpoints" / "00000001"
    folder.mkdir(parents=True)
    save_file({f"eye.{name}": t.clone() for name, t in adaptor.state_dict().items()}, folder / "model.safetensors")
    set_value(folder / "model.safetensors", "eye.up.weight", float("nan"))
    with pytest.raises(ValueError, match=r"eye\.up\.weight holds NaN"):
        checkpoint.load_part(adaptor, str(tmp_path), "eye.")


@pytest.mark.parametrize("name", [TENSOR, "language_model.embedding.weight", "language_model.norm.weight"])
def test_values_beyond_float16_are_refused_when_stored_and_when_loaded_in_it(name, tmp_path, capsys) -> None:
    checkpoint.save(with_value(-70_000.0, name), tmp_path / "model")
    error = error_of(capsys, "convert", tmp_path / "model", tmp_path / "half", "--dtype", "float16")
    assert f"{name} has values up to 7e+04" in error and "use bfloat16 or float32" in error
    assert not (tmp_path / "half").exists()
    with pytest.raises(ValueError, match=f"{name} has values up to 7e"):
        checkpoint.load(tmp_path / "model", dtype=torch.float16)
    main(["convert", str(tmp_path / "model"), str(tmp_path / "brain"), "--dtype", "bfloat16"])
    assert checkpoint.load(tmp_path / "brain").model.get_parameter(name).min() < -69_000


@pytest.mark.parametrize("name", [TENSOR, "language_model.embedding.weight"])
def test_values_beyond_float16_are_refused_by_an_engine_that_stores_them_so(name, tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    set_value(folder / "model.safetensors", name, 70_000.0)
    with pytest.raises(ValueError, match=f"{name} has values up to 7e"):
        openjanus.load(folder, "cpu", "float16")
    assert openjanus.load(folder, "cpu", "bfloat16")


def test_the_image_tokenizer_may_hold_larger_values_where_it_stays_in_float32(tmp_path) -> None:
    made = tiny.checkpoint()
    made.model.generation.tokenizer.codebook.weight[0, 0] = 70_000.0
    checkpoint.save(made, tmp_path / "model")
    assert checkpoint.load(tmp_path / "model", dtype=torch.float16)


def test_only_the_tensors_asked_for_are_read(tmp_path) -> None:
    checkpoint.save(tiny.checkpoint(), tmp_path / "model")
    set_value(tmp_path / "model" / "model.safetensors", TENSOR, float("nan"))
    model = checkpoint.load(tmp_path / "model", only="generation.tokenizer.").model
    assert not any(p.is_meta for p in model.generation.tokenizer.parameters())
    assert all(p.is_meta for p in model.language_model.parameters())


# --- what belongs together


def test_a_processor_that_does_not_fit_the_eye_is_refused_where_they_meet(tmp_path) -> None:
    folder, wrong = tmp_path / "model", ProcessorConfig(PixelConfig(32))
    checkpoint.save(tiny.checkpoint(), folder)
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"size_px": 16', '"size_px": 32'))
    words = "processor.pixels.size_px is 32, but the understanding eye takes pictures of 16 px: they must be equal"
    with pytest.raises(ValueError, match=rf"model/config\.json: {words}"):
        openjanus.load(folder, "cpu")
    with pytest.raises(ValueError, match=words):
        Checkpoint(tiny.janus(), tiny.processor(wrong), {})
    with pytest.raises(ValueError, match=words):
        janus_training(JanusTraining("no start", "", model=tiny.CONFIG, processor=wrong), 0)
    with pytest.raises(ValueError, match="num_features is 9, but the understanding eye has 4 positions"):
        Checkpoint(tiny.janus(), tiny.processor(num_features=9), {})
