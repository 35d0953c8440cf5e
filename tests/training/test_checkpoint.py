"""Training checkpoints: exact in any memory order, whole or not at all, and never more than two."""

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
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tmp_path, model, optimizer_of(model), {"step": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["00000001"]


def test_the_draft_of_a_killed_process_is_no_checkpoint_and_goes_with_the_next_save(tmp_path) -> None:
    model = network()
    (tmp_path / ".draft-1").mkdir()
    (tmp_path / ".draft-1" / "model.safetensors").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) is None
    checkpoint.save(tmp_path, model, optimizer_of(model), {"step": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["00000001"]
