"""Forward and loss on a GPU never wait for it: CUDA's own debug mode says so (tests/model/test_synchronisation.py)."""

import pytest
import torch

from openjanus.sequence import GenerateSpan, TextSpan, pack
from openjanus.training.janus import JanusObjective, JanusTraining
from openjanus.training.stage import Stage
from tests import tiny

pytestmark = pytest.mark.gpu


def test_forward_and_loss_wait_for_nothing() -> None:
    objective = JanusObjective(JanusTraining(None, None, "", "", "", row_tokens=30), 0, tiny.checkpoint())
    objective.model.to("cuda")
    picture = tiny.picture_span()
    documents = [
        [TextSpan([5]), picture, TextSpan([6, 7], loss=True)],
        [TextSpan([5, 6]), GenerateSpan(range(16), loss=True), picture],
    ]
    batch, stage = pack(documents, 30).to("cuda"), Stage("s", 1, 1e-3, {"a": 1})
    expected = objective.loss(batch, stage, 0)[0].item()  # libraries initialise themselves
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss, measures = objective.loss(batch, stage, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.item() == pytest.approx(expected, rel=1e-5) and set(measures) == {"text_loss", "image_loss"}
