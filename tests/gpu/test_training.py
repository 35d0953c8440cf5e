"""Training on a GPU: the steps of a CPU, and a run that goes on where it stopped."""

from dataclasses import replace

import pytest
import torch

from openjanus.model.attention import attend, attend_slowly, causal_document_mask
from openjanus.runtime import Runtime
from openjanus.training.compiled import DocumentMask
from openjanus.training.loop import Schedule, fit
from openjanus.training.run import make_training
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


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_attention_by_blocks_goes_forth_and_back_as_the_oracle(num_kv_heads) -> None:
    torch.manual_seed(0)
    document = torch.tensor([[0] * 50 + [1] * 90 + [2] * 60, [0] * 130 + [-1] * 70], device="cuda")
    shapes = [(2, heads, 200, 64) for heads in (4, num_kv_heads, num_kv_heads)]
    q, k, v = qkv = [torch.randn(shape, device="cuda", requires_grad=True) for shape in shapes]
    same = [x.detach().clone().requires_grad_() for x in qkv]
    got = attend(q, k, v, DocumentMask(document))
    expected = attend_slowly(same[0], same[1], same[2], causal_document_mask(document))
    torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-2)
    for y in (got, expected):
        y.square().sum().backward()
    for x, other in zip(qkv, same, strict=True):
        torch.testing.assert_close(x.grad, other.grad, rtol=2e-2, atol=5e-2)


def test_compiled_layers_train_as_plain_ones(janus_task, tmp_path) -> None:
    """With rows that the tests of the other form have, in bfloat16, where FlexAttention is made for."""
    for compiled in (False, True):
        run = run_of("janus", replace(janus_task, compile=compiled))
        train(run, tmp_path / str(compiled), runtime=replace(CUDA, weights="bfloat16"))
    assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), rel=0.02)


def test_batches_of_other_processes_come_through_pinned_memory(janus_task, tmp_path) -> None:
    """As a thread's: the same losses."""
    for workers in (0, 1):
        run = run_of("janus", janus_task)
        schedule = Schedule(log_steps=1, workers=workers)
        fit(make_training(run), run.stages, tmp_path / str(workers), CUDA, schedule=schedule)
    assert losses(tmp_path / "1") == pytest.approx(losses(tmp_path / "0"), rel=0.02)
