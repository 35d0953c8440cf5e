"""Training checkpoints: exact in any memory order, whole or not at all, and never more than two."""

import json
import resource
import shutil
import subprocess
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

from openjanus.training import checkpoint
from openjanus.training.stage import Stage, make_optimizer


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))
    return model.to(memory_format=torch.channels_last)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return make_optimizer(Stage("s", 1, 0.1, {"a": 1}), dict(model.named_parameters()))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 6, 6, generator=generator).to(memory_format=torch.channels_last)
    model(pixels).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_step_after_restoring_is_the_step_without(tmp_path) -> None:
    one = network()
    optimizer = optimizer_of(one)
    step(one, optimizer)
    saved = checkpoint.save(tmp_path, one, optimizer, {"step": 1})
    other = network()
    checkpoint.restore_model(saved, other)
    again = optimizer_of(other)
    checkpoint.restore_optimizer(saved, again)
    step(one, optimizer)
    step(other, again)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_the_newest_two_stay(tmp_path) -> None:
    model = network()
    assert checkpoint.latest(tmp_path / "none") is None
    for number in (9, 10, 100):
        checkpoint.save(tmp_path, model, optimizer_of(model), {"step": number, "note": "é"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000010", "00000100"]
    newest = checkpoint.latest(tmp_path)
    assert newest is not None and checkpoint.read_state(newest) == {"step": 100, "note": "é"}


def test_a_tied_weight_is_saved_under_both_names(tmp_path) -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        model[1].weight = model[0].weight
        return model

    model, other = tied(), tied()
    checkpoint.restore_model(checkpoint.save(tmp_path, model, optimizer_of(model), {"step": 1}), other)
    assert torch.equal(other[0].weight, model[0].weight) and other[1].weight is other[0].weight


def test_a_failed_save_leaves_the_last_checkpoint_and_no_draft(tmp_path, monkeypatch) -> None:
    model = network()
    checkpoint.save(tmp_path, model, optimizer_of(model), {"step": 1})
    whole = checkpoint.save_file

    def fail_at_the_optimizer(tensors, path) -> None:
        if path.name == "optimizer.safetensors":
            raise OSError("disk full")
        whole(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", fail_at_the_optimizer)
    with pytest.raises(OSError, match=r"00000002/optimizer.safetensors: cannot be saved \(disk full\)"):
        checkpoint.save(tmp_path, model, optimizer_of(model), {"step": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["00000001"]


@contextmanager
def files_of_at_most(size: int):
    """The largest size of a file that this process may write: the system then refuses as for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("size", "file"), [(100, "model.safetensors"), (4096, "state.json")])
def test_a_full_disk_names_the_file_and_leaves_the_checkpoint_before_whole(tmp_path, size, file) -> None:
    model = network()
    first = checkpoint.save(tmp_path, model, optimizer_of(model), {"step": 1})
    full = pytest.raises(OSError, match=rf"00000002/{file}: cannot be saved \(.*make room")
    with full, files_of_at_most(size):
        checkpoint.save(tmp_path, model, optimizer_of(model), {"step": 2, "note": "x" * 8192})
    assert [p.name for p in tmp_path.iterdir()] == ["00000001"]
    assert checkpoint.latest(tmp_path) == first


def test_a_save_that_cannot_replace_leaves_the_one_it_would_replace(tmp_path, monkeypatch) -> None:
    model = network()
    checkpoint.save(tmp_path, model, optimizer_of(model), {"step": 1, "note": "first"})
    move = checkpoint.os.replace

    def fail_at_the_new(source: Path, target: Path) -> None:
        if target.name == "00000001" and "replaced" not in source.name:
            raise OSError("no")
        move(source, target)

    monkeypatch.setattr(checkpoint.os, "replace", fail_at_the_new)
    with pytest.raises(OSError, match="cannot be saved"):
        checkpoint.save(tmp_path, model, optimizer_of(model), {"step": 1, "note": "second"})
    newest = checkpoint.latest(tmp_path)
    assert newest is not None and checkpoint.read_state(newest)["note"] == "first"


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
DAMAGES = {
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "changed in one bit": flip_a_byte,
    "removed": lambda path: path.unlink(),
}


@pytest.mark.parametrize(
    ("file", "damage"),
    [*product(FILES, DAMAGES), (checkpoint.SUMS, "emptied"), (checkpoint.SUMS, "cut")],
)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, file, damage) -> None:
    model = network()
    first, second = (checkpoint.save(tmp_path, model, optimizer_of(model), {"step": step}) for step in (1, 2))
    DAMAGES[damage](second / file)
    with pytest.warns(UserWarning, match=rf"00000002/{file}.*taking the checkpoint before, .*00000001"):
        assert checkpoint.latest(tmp_path) == first


def test_if_every_checkpoint_is_damaged_the_files_are_named(tmp_path) -> None:
    model = network()
    for step in (1, 2):
        saved = checkpoint.save(tmp_path, model, optimizer_of(model), {"step": step})
        (saved / "state.json").write_text("")
    with pytest.raises(ValueError, match=r"00000002/state.json.*00000001/state.json.*no checkpoint is whole"):
        checkpoint.latest(tmp_path)


def test_a_checkpoint_behind_the_one_saved_goes(tmp_path) -> None:
    """The damaged ones that a run went back from do not push whole ones out."""
    model = network()
    for step in (10, 20):
        saved = checkpoint.save(tmp_path, model, optimizer_of(model), {"step": step})
    (saved / "state.json").write_text("")
    checkpoint.save(tmp_path, model, optimizer_of(model), {"step": 15})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000010", "00000015"]


def test_checkpoints_without_sums_as_older_versions_wrote_them_are_taken(tmp_path) -> None:
    model = network()
    saved = checkpoint.save(tmp_path, model, optimizer_of(model), {"step": 1})
    (saved / checkpoint.SUMS).unlink()
    assert checkpoint.latest(tmp_path) == saved
    (saved / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"00000001/model.safetensors: damaged"):
        checkpoint.restore_model(saved, network())


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs coreutils")
def test_sums_are_those_of_sha256sum(tmp_path) -> None:
    model = network()
    saved = checkpoint.save(tmp_path, model, optimizer_of(model), {"step": 1})
    subprocess.run(["sha256sum", "--check", "--quiet", checkpoint.SUMS], cwd=saved, check=True)
    assert json.loads((saved / "state.json").read_text()) == {"step": 1}


def test_the_draft_of_a_killed_process_is_no_checkpoint_and_goes_with_the_next_save(tmp_path) -> None:
    model = network()
    (tmp_path / ".draft-1").mkdir()
    (tmp_path / ".draft-1" / "model.safetensors").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) is None
    checkpoint.save(tmp_path, model, optimizer_of(model), {"step": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["00000001"]
