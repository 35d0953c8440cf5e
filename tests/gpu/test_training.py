"""Training on a GPU: the steps of a CPU, and a run that goes on where it stopped."""

from dataclasses import replace

import pytest
import torch

from openjanus.runtime import Runtime
from tests.training.test_loop import janus_task, losses, run_of, train

__all__ = ["janus_task"]  # a fixture
pytestmark = pytest.mark.gpu
CUDA = Runtime(torch.device("cuda"), "float32", "a test")


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["tokenizer", "encoder", "janus"])
def test_losses_are_near_those_of_a_cpu(kind, weights, janus_task, tmp_path) -> None:
    run = run_of(kind, janus_task)
    train(run, tmp_path / "cpu")
    trained = train(run, tmp_path / "cuda", runtime=replace(CUDA, weights=weights))
    assert {tensor.device.type for tensor in trained.values()} == {"cuda"}
    bound = 0.02 if weights == "float32" else 0.1
    assert losses(tmp_path / "cuda") == pytest.approx(losses(tmp_path / "cpu"), rel=bound)


@pytest.mark.parametrize("kind", ["tokenizer", "encoder", "janus"])
def test_a_run_goes_on_where_it_stopped(kind, janus_task, tmp_path) -> None:
    """Up to what a GPU adds in another order each time."""
    run = run_of(kind, janus_task)
    train(run, tmp_path / "whole", runtime=CUDA)
    for stop_after in (1, 2, None):
        train(run, tmp_path / "parts", stop_after, CUDA)
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=0.02)
