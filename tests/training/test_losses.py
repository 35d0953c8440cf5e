"""The losses of SigLIP and Janus against the formulas of their papers, and which parameters each of them moves."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.data.sources import SOURCES, find_source
from openjanus.eyes.contrastive import ContrastiveTraining, PairBatch, contrastive_training
from openjanus.processing.message import Message
from openjanus.sequence import Batch, Kind, TextSpan
from openjanus.training.janus import JanusTraining, janus_training
from openjanus.training.loop import Training
from openjanus.training.stage import Stage
from openjanus.weights import checkpoint
from tests import tiny


def moved(model: nn.Module, loss: Tensor, depth: int) -> set[str]:
    """The parts of a model that a loss has gradients for, by the first names of their parameters."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    touched = {name for name, gradient in zip(named, found, strict=True) if gradient is not None and gradient.any()}
    return {".".join(name.split(".")[:depth]) for name in touched}


# --- SigLIP (arXiv 2303.15343, algorithm 1)


@pytest.fixture
def siglip() -> Training:
    torch.manual_seed(0)
    encoder = replace(tiny.VISION_ENCODER, pooling_head=True)
    training = contrastive_training(
        ContrastiveTraining(encoder, 1, 2, 32, num_text_tokens=24, bias=-2.0, text_tokenizer="emoji"), 0
    )
    tiny.shake(training.model)
    nn.init.constant_(training.model.log_temperature, 0.7)
    nn.init.constant_(training.model.bias, -1.3)
    return training


def pairs(belongs: Tensor) -> PairBatch:
    M = len(belongs)
    text_ids = torch.randint(8, 1000, (M, 6))
    text_ids[1, 3:] = -1
    return PairBatch(torch.rand(M, 3, 16, 16) * 2 - 1, text_ids, belongs)


def cosines(training: Training, batch: PairBatch) -> Tensor:
    """Images by captions, of embeddings of unit length; each caption is embedded by itself, without padding."""
    model = training.model
    assert model.vision_encoder.pooling_head is not None
    x = model.vision_encoder.pooling_head(model.vision_encoder(batch.pixels))
    y = torch.cat([model.text_projection(model.text_tower(ids[ids >= 0][None])) for ids in batch.text_ids])
    return (x / x.norm(dim=1, keepdim=True)) @ (y / y.norm(dim=1, keepdim=True)).T


def test_siglip_is_the_papers_sigmoid_loss(siglip) -> None:
    n, batch = 4, pairs(torch.eye(4, dtype=torch.bool))
    logits = cosines(siglip, batch) * torch.exp(siglip.model.log_temperature) + siglip.model.bias
    labels = 2 * torch.eye(n) - torch.ones(n, n)  # -1 with diagonal 1
    wanted = -F.logsigmoid(labels * logits).sum() / n
    loss = siglip.loss(siglip.model, batch, 0)[0] / siglip.num_targets(batch)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)
    assert moved(siglip.model, loss, 1) == {
        "vision_encoder", "text_tower", "text_projection", "log_temperature", "bias"
    }  # fmt: skip
    named = dict(siglip.model.named_parameters())
    for name, one, other in zip(
        named,
        torch.autograd.grad(loss, list(named.values()), retain_graph=True),
        torch.autograd.grad(wanted, list(named.values())),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5, msg=name)


def test_siglip_pulls_what_belongs_together_and_pushes_the_rest_apart(siglip) -> None:
    batch = pairs(torch.eye(3, dtype=torch.bool))
    before = cosines(siglip, batch)
    loss = siglip.loss(siglip.model, batch, 0)[0]
    loss.backward()
    with torch.no_grad():
        for name, p in siglip.model.named_parameters():
            if p.grad is not None and name not in ("bias", "log_temperature"):
                p -= 1e-4 * p.grad
    change = (cosines(siglip, batch) - before).detach()
    others = change[~batch.belongs]
    assert change.diagonal().mean() > others.mean()
    assert siglip.loss(siglip.model, batch, 0)[0] < loss


def test_siglip_begins_with_the_papers_temperature_and_its_own_bias() -> None:
    encoder = replace(tiny.VISION_ENCODER, pooling_head=True)
    model = contrastive_training(ContrastiveTraining(encoder, 1, 2, 32, text_tokenizer="emoji"), 0).model
    assert model.log_temperature.exp().item() == pytest.approx(10) and model.bias.item() == -10


def test_equal_captions_belong_to_both_pictures(siglip, monkeypatch) -> None:
    captions = ["A cat", "a dog", "a cat"]
    render = find_source("emoji.pictures", "pictures")("train", 0)
    told = (lambda split, seed: lambda index: (render(index), captions[index]), "captioned pictures")
    monkeypatch.setitem(SOURCES, "told", told)
    (batch,) = siglip.data(Stage("s", 1, 1e-3, {"told": 3}), 0)
    assert batch.belongs.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    logits = cosines(siglip, batch) * math.exp(0.7) - 1.3
    z = batch.belongs.float() * 2 - 1
    wanted = torch.log1p(torch.exp(-z * logits)).sum()
    torch.testing.assert_close(siglip.loss(siglip.model, batch, 0)[0], wanted, rtol=1e-5, atol=1e-5)


# --- Janus (arXiv 2410.13848, §3.2: cross-entropy, no weights of tasks)


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> JanusTraining:
    folder = tmp_path_factory.mktemp("start") / "model"
    checkpoint.save(tiny.checkpoint(), folder)
    return JanusTraining(str(folder), "", row_tokens=160, text_weight=1.0)


def batch_of(training: Training, mixture: dict[str, int]) -> Batch:
    (batch,) = training.data(Stage("s", 1, 1e-3, mixture), 0)
    return batch


def cross_entropy(training: Training, batch: Batch, kind: Kind) -> Tensor:
    """-log p of every id that a head has to say, from the hidden state before it: summed."""
    hidden, total = training.model(batch), torch.zeros(())
    head = training.model.heads[kind]
    for b, t in (batch.target_kind == kind).nonzero().tolist():
        p = torch.softmax(head(hidden[b, t]), dim=-1)
        total = total - p[batch.target[b, t]].log()
        assert (
            batch.target[b, t] == batch.tokens[b, t + 1]
            or batch.target[b, t] == training.checkpoint.processor.text.eos_id
        )
    return total


TEXT_PARTS = {"language_model.embedding", "language_model.layers", "language_model.norm", "language_model.text_head"}
SEEING = {"understanding.encoder", "understanding.adaptor"}
DRAWING = {"generation.embedding", "generation.adaptor", "generation.head"}


def test_the_text_loss_is_cross_entropy_and_moves_no_part_of_drawing(task) -> None:
    training = janus_training(replace(task, micro_batch_rows=100), 0)
    batch = batch_of(training, {"emoji.questions": 2, "emoji.texts": 1})
    loss = training.loss(training.model, batch, 0)[0]
    torch.testing.assert_close(loss, cross_entropy(training, batch, Kind.TEXT), rtol=1e-5, atol=1e-4)
    assert moved(training.model.requires_grad_(), training.loss(training.model, batch, 0)[0], 2) == TEXT_PARTS | SEEING


def test_the_image_loss_is_cross_entropy_and_moves_neither_tokenizer_nor_understanding(task) -> None:
    training = janus_training(replace(task, micro_batch_rows=100), 0)
    batch = batch_of(training, {"emoji.drawings": 3})
    loss = training.loss(training.model, batch, 0)[0]
    torch.testing.assert_close(loss, cross_entropy(training, batch, Kind.GENERATE), rtol=1e-5, atol=1e-4)
    wanted = DRAWING | TEXT_PARTS - {"language_model.text_head"}
    assert moved(training.model.requires_grad_(), training.loss(training.model, batch, 0)[0], 2) == wanted
    assert training.num_targets(batch) == 3 * 16  # every image id, and nothing else


def test_the_text_weight_multiplies_the_text_loss_only(task) -> None:
    training = janus_training(replace(task, micro_batch_rows=100, text_weight=4.0), 0)
    batch = batch_of(training, {"emoji.questions": 1, "emoji.drawings": 1, "emoji.texts": 1})
    text, image = (cross_entropy(training, batch, kind) for kind in (Kind.TEXT, Kind.GENERATE))
    loss, measures = training.loss(training.model, batch, 0)
    torch.testing.assert_close(loss, 4 * text + image, rtol=1e-5, atol=1e-4)
    for name, wanted, kind in (("text_loss", text, Kind.TEXT), ("image_loss", image, Kind.GENERATE)):
        value, count = measures[name]
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-4)  # logged without its weight
        assert count == int((batch.target_kind == kind).sum())


def test_a_dropped_caption_leaves_the_image_loss_without_its_condition(task) -> None:
    """Classifier-free guidance (arXiv 2207.12598): p(picture) beside p(picture | caption), by the same loss."""
    source = find_source("emoji.drawings", "conversations")("train", 0)
    kept, dropped = (janus_training(replace(task, drop_caption=p), 0) for p in (0.0, 1.0))
    text = kept.checkpoint.processor.text
    for index in range(3):
        one, other = (training.data.document("emoji.drawings", source, index) for training in (kept, dropped))
        assert one[1] == other[1]  # the picture, with its loss
        assert isinstance(one[0], TextSpan) and isinstance(other[0], TextSpan)
        structure = (text.bos_id, text.begin_of_image_id)
        assert list(other[0].ids) == [i if i in structure else text.pad_id for i in one[0].ids]
    first, second = (batch_of(training, {"emoji.drawings": 2}) for training in (kept, dropped))
    assert torch.equal(first.target, second.target) and torch.equal(first.target_kind, second.target_kind)
    alone = dropped.loss(dropped.model, second, 0)[0]
    torch.testing.assert_close(alone, cross_entropy(kept, second, Kind.GENERATE), rtol=1e-5, atol=1e-4)
    assert not torch.isclose(alone, kept.loss(kept.model, first, 0)[0])


def test_long_documents_have_rows_of_their_own_and_the_loss_is_the_same(monkeypatch) -> None:
    """Half of the examples are longer than a short row; the loss of a step does not depend on the rows."""

    def talks(split: str, seed: int):
        words = "two red apples and a cat " * 6
        return lambda index: [Message("text", words * (1 + 2 * (index % 2)))]

    monkeypatch.setitem(SOURCES, "talks", (talks, "conversations"))
    stage = Stage("s", 1, 1e-3, {"talks": 8})
    start = tiny.checkpoint()
    sums, shapes = [], []
    for settings in ({"row_tokens": 190}, {"row_tokens": 64, "long_row_tokens": 190, "micro_batch_rows": 4}):
        training = janus_training(JanusTraining("", "", **settings), 0, start)
        batches = training.data(stage, 0)
        shapes.append([tuple(batch.tokens.shape) for batch in batches])
        sums.append(sum(float(training.loss(training.model, batch, 0)[0]) for batch in batches))
        words = [talks("", 0)(index)[0].content[0] for index in range(8)]
        num_words = sum(len(start.processor.text.encode(text)) + 1 for text in words)  # and the end of each
        assert sum(training.num_targets(batch) for batch in batches) == num_words
    longest = max(length for _, length in shapes[1])
    assert shapes[1] == [(4, 64)] + [(1, longest)] * 4 and 64 < longest < 190  # a long row is as long as its document
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
    with pytest.raises(ValueError, match="does not fit a row of 64: raise row_tokens"):
        janus_training(JanusTraining("", "", row_tokens=64), 0, start).data(stage, 0)
    with pytest.raises(ValueError, match="does not fit a row of 100: raise row_tokens"):
        janus_training(JanusTraining("", "", row_tokens=64, long_row_tokens=100), 0, start).data(stage, 0)
