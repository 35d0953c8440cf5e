"""Parameter counts of the published models, on the meta device (the counts that match the published file sizes)."""

import pytest
import torch
from torch import nn

from openjanus.bench.shapes import JANUS_1B, JANUS_7B
from openjanus.model.janus import Janus, JanusConfig
from tests.tiny import with_encoder


def build(config: JanusConfig) -> Janus:
    with torch.device("meta"):
        return Janus(config)


def millions(part: nn.Module) -> float:
    return sum(p.numel() for p in part.parameters()) / 1e6


@pytest.fixture(scope="module")
def janus_1b() -> Janus:
    return build(with_encoder(JANUS_1B, pooling_head=True))


def test_janus_1b_and_pro_1b(janus_1b):
    assert millions(janus_1b) == pytest.approx(2089.23, abs=0.01)


def test_janus_1b_without_pooling_head():
    assert millions(build(JANUS_1B)) == pytest.approx(2076.64, abs=0.01)


def test_janus_pro_7b():
    assert millions(build(with_encoder(JANUS_7B, pooling_head=True))) == pytest.approx(7420.4, abs=0.1)


@pytest.mark.parametrize(
    ("part", "size"),
    [
        ("language_model", 1652.66),
        ("understanding.encoder.pooling_head", 12.60),
        ("understanding.adaptor", 6.30),
        ("generation.embedding", 0.13),
        ("generation.adaptor", 4.21),
        ("generation.head", 37.77),
        ("generation.tokenizer", 71.88),
        ("generation.tokenizer.encoder", 29.30),
        ("generation.tokenizer.decoder", 42.45),
    ],
)
def test_parts_of_janus_1b(janus_1b, part, size):
    assert millions(janus_1b.get_submodule(part)) == pytest.approx(size, abs=0.01)


def test_vision_encoder_of_janus_1b(janus_1b):
    encoder = janus_1b.understanding.encoder
    assert millions(encoder) - millions(encoder.pooling_head) == pytest.approx(303.69, abs=0.01)


def test_stage_one_of_the_paper_trains_adaptors_and_image_head(janus_1b):
    trained = (janus_1b.understanding.adaptor, janus_1b.generation.adaptor, janus_1b.generation.head)
    assert sum(map(millions, trained)) == pytest.approx(48.28, abs=0.01)


def test_a_picture_takes_576_features_and_576_ids():
    assert JANUS_1B.num_features == JANUS_1B.generation.num_image_ids == 576
