"""The eye whose ids are products: the same as an ordinary eye with its tables written out."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from openjanus.config import ConfigError
from openjanus.eyes.codebook import ProductCodebook
from openjanus.inference.engine import Engine, load
from openjanus.model.janus import Janus, JanusConfig
from openjanus.model.product_eye import ProductEye, ProductEyeConfig
from openjanus.model.shared_eye import SharedEyeConfig
from openjanus.model.vq_eye import VQEye, VQEyeConfig
from openjanus.sequence import GenerateSpan, Kind, TextSpan, pack
from openjanus.training.janus import janus_loss
from openjanus.weights import checkpoint
from openjanus.weights.config import Checkpoint
from tests import tiny

EYE = ProductEyeConfig(tiny.IMAGE_TOKENIZER, head_width=32, num_colours=6, colour_width=1)  # 8 shapes
CONFIG = replace(tiny.CONFIG, generation=EYE)
IDS = torch.arange(48)


@pytest.fixture(scope="module")
def model() -> Janus:
    return tiny.janus(CONFIG)


@torch.no_grad()
def test_embeddings_and_logits_are_those_of_the_plain_eye(model) -> None:
    eye, plain = model.generation, model.generation.plain()
    assert type(eye) is ProductEye and type(plain) is VQEye and plain.config == VQEyeConfig(EYE.tokenizer, 32)
    hidden = torch.randn(5, 32)
    assert torch.equal(eye(IDS), plain(IDS))
    torch.testing.assert_close(eye.head(hidden), plain.head(hidden))
    assert eye.head(hidden).shape == (5, 48)
    logits = eye.head.shapes(F.gelu(eye.head.up(hidden))), eye.head.colours(F.gelu(eye.head.up(hidden)))
    torch.testing.assert_close(eye.head(hidden)[:, 4 * 6 + 5], logits[0][:, 4] + logits[1][:, 5])


@torch.no_grad()
def test_the_loss_is_the_cross_entropy_over_the_plain_table(model) -> None:
    document = [TextSpan([5, 6]), GenerateSpan(torch.randint(48, (16,)).tolist(), loss=True)]
    batch = pack([document], 20)
    total, measures = janus_loss(model, batch, 0)
    hidden = model(batch).flatten(0, 1)[batch.targets[Kind.GENERATE]]
    ids = batch.target.flatten()[batch.targets[Kind.GENERATE]]
    expected = F.cross_entropy(model.generation.plain().head(hidden), ids, reduction="sum")
    torch.testing.assert_close(total, expected)
    assert measures["image_loss"][1] == 16


@pytest.mark.parametrize("shared", [False, True])
@torch.no_grad()
def test_a_checkpoint_holds_an_ordinary_eye_that_draws_the_same(shared, tmp_path) -> None:
    config = replace(CONFIG, understanding=SharedEyeConfig()) if shared else CONFIG
    model = tiny.janus(config)
    start = Checkpoint(model, tiny.processor(num_features=config.num_features), {})
    names = set(model.state_dict())
    checkpoint.save(start, tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())["model"]["generation"]
    assert stored["type"] == "VQEyeConfig" and "num_colours" not in stored
    assert set(model.state_dict()) == names and type(model.generation) is ProductEye  # the model is as it was
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    kept = checkpoint.load(tmp_path)
    torch.testing.assert_close(kept.model.understanding(pixels), model.understanding(pixels))
    drawn = [engine.generate_ids("a cat", seed=1).tolist() for engine in (Engine(start), Engine(kept))]
    assert drawn[0] == drawn[1]
    assert load(tmp_path, "cpu", "int8").generate("a cat", seed=1)[0].size == (16, 16)


def test_the_embedding_starts_as_the_halves_of_the_codebook() -> None:
    torch.manual_seed(0)
    model = Janus(CONFIG)
    codebook = ProductCodebook(8, 6, 3, 1)
    with torch.no_grad():
        model.generation.tokenizer.codebook.weight.copy_(codebook.weight)
        model.generation.start_from_tokenizer()
        torch.testing.assert_close(model.generation.embedding(IDS), codebook.weight)


@pytest.mark.parametrize(
    ("changes", "words"), [({"num_colours": 7}, "num_colours is 7"), ({"colour_width": 4}, "colour_width is 4")]
)
def test_halves_that_do_not_fit_are_refused(changes, words) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(EYE, **changes)


def test_the_config_is_a_value_like_others() -> None:
    from openjanus import config as configs

    assert configs.from_dict(JanusConfig, configs.to_dict(CONFIG)) == CONFIG
