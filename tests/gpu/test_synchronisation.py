"""Forward and loss on a GPU never wait for it: CUDA's own debug mode says so (tests/model/test_synchronisation.py)."""

import pytest
import torch

from openjanus.sequence import Document, GenerateSpan, TextSpan, pack
from openjanus.training.janus import JanusTraining, janus_training
from tests import tiny

pytestmark = pytest.mark.gpu


def test_forward_and_loss_wait_for_nothing() -> None:
    training = janus_training(JanusTraining("", "", row_tokens=30), 0, tiny.checkpoint())
    training.model.to("cuda")
    picture = tiny.picture_span()
    documents: list[Document] = [
        [TextSpan([5]), picture, TextSpan([6, 7], loss=True)],
        [TextSpan([5, 6]), GenerateSpan(range(16), loss=True), picture],
    ]
    batch = pack(documents, 30).to("cuda")
    expected = training.loss(training.model, batch, 0)[0].item()  # libraries initialise themselves
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss, measures = training.loss(training.model, batch, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.item() == pytest.approx(expected, rel=1e-5) and set(measures) == {"text_loss", "image_loss"}
