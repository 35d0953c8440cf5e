"""Neither the model nor the loss asks a device for a number, so that a GPU never has to wait for the next batch."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from openjanus.sequence import Batch, GenerateSpan, Kind, TextSpan, pack
from openjanus.training.janus import JanusTraining, janus_training
from openjanus.training.loop import Training
from openjanus.weights import checkpoint
from tests import tiny

WAITING = ("nonzero", "local_scalar_dense", "masked_select", "masked_scatter", "item", "is_nonzero", "equal", "unique")


class NoWaiting(TorchDispatchMode):
    """Fails for an operation whose result, or whose shape, the host must read from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__.strip("_")
        indices = args[1] if name in ("index", "index_put") else ()
        by_mask = any(index is not None and index.dtype == torch.bool for index in indices)
        if by_mask or name in WAITING:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> Training:
    folder = tmp_path_factory.mktemp("start") / "model"
    checkpoint.save(tiny.checkpoint(), folder)
    return janus_training(JanusTraining(str(folder), "", row_tokens=40), 0)


@pytest.fixture
def batch() -> Batch:
    """All kinds of positions and targets, and padding."""
    picture = tiny.picture_span()
    documents = [
        [TextSpan([5]), picture, TextSpan([6, 7], loss=True)],
        [TextSpan([5, 6]), GenerateSpan(range(16), loss=True), picture],
        [GenerateSpan([1, 2]), TextSpan([3], loss=True)],
    ]
    return pack(documents, 30)


def test_forward_loss_and_backward_ask_nothing(training, batch) -> None:
    training.model.requires_grad_()
    with NoWaiting():
        loss, measures = training.loss(training.model, batch, 0)
        (loss / training.num_targets(batch)).backward()
    assert set(measures) == {"text_loss", "image_loss"}
    assert training.model.generation.adaptor.up.weight.grad is not None


def test_they_run_where_there_are_no_numbers_at_all(training, batch) -> None:
    model, moved = tiny.janus().to("meta"), batch.to("meta")
    loss, measures = training.loss(model, moved, 0)
    assert loss.is_meta and measures["image_loss"][1] == 16
    assert training.num_targets(moved) == training.num_targets(batch)
    assert model.embed(moved).shape == (*batch.tokens.shape, tiny.LANGUAGE_MODEL.width)


@pytest.mark.parametrize(
    "asks",
    [
        lambda batch: batch.tokens[batch.kind == Kind.TEXT],
        lambda batch: batch.kind.nonzero(),
        lambda batch: int(batch.kind.sum()),
        lambda batch: bool((batch.kind == Kind.TEXT).any()),
        lambda batch: batch.tokens.masked_select(batch.kind == Kind.TEXT),
    ],
)
def test_a_question_to_the_device_is_noticed(batch, asks) -> None:
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        asks(batch)
