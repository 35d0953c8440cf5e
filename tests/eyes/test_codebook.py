"""Codebooks of two halves: they are plain codebooks to everything outside the training."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from openjanus.config import ConfigError
from openjanus.eyes.codebook import ProductCodebook, count_uses, latents_of, tables_of
from openjanus.eyes.tokenizer import TokenizerTraining, tokenizer_training
from openjanus.model.image_tokenizer import ImageTokenizer
from openjanus.runtime import Runtime
from openjanus.starting.parts import IMAGE_TOKENIZER, read_part
from openjanus.training.run import Run, train
from openjanus.training.stage import Stage
from openjanus.weights.checkpoint import load_part
from tests import tiny

CPU = Runtime(torch.device("cpu"), "float32", "test")
CONFIG = replace(tiny.IMAGE_TOKENIZER, image_size_px=64, num_ids=12 * 5, code_width=7)
TASK = TokenizerTraining(
    CONFIG, perceptual_weight=0.0, discriminator_width=4, num_colours=5, colour_width=3,
    quantise_start=1, revive_steps=2, revive_end=6,
)  # fmt: skip
STAGE = Stage("all", 4, 1e-3, {"emoji.recoloured": 3})


@pytest.fixture
def tokenizer() -> ImageTokenizer:
    torch.manual_seed(0)
    return tokenizer_training(TASK, 0).model.tokenizer


def plain(tokenizer: ImageTokenizer) -> ImageTokenizer:
    """The same as an ordinary tokenizer, by what a checkpoint stores of it."""
    stored = tokenizer.state_dict()
    kept = {name: t for name, t in stored.items() if name not in ("codebook.shapes", "codebook.colours")}
    other = ImageTokenizer(CONFIG)
    other.load_state_dict(kept)
    return other


@torch.no_grad()
def test_the_nearest_code_is_the_nearest_in_each_half(tokenizer) -> None:
    pixels = torch.rand(4, 3, 64, 64) * 2 - 1
    z = latents_of(tokenizer, pixels)
    shapes, colours = (F.normalize(table, dim=-1) for table, _ in tables_of(tokenizer.codebook))
    shape, colour = F.normalize(z[:, :4], dim=-1), F.normalize(z[:, 4:], dim=-1)
    wanted = (shape @ shapes.T).argmax(-1) * 5 + (colour @ colours.T).argmax(-1)
    assert tokenizer.encode(pixels).flatten().tolist() == wanted.tolist()
    assert len(wanted.unique()) > 10


@torch.no_grad()
def test_a_plain_tokenizer_gives_the_same_ids_and_pictures(tokenizer) -> None:
    pixels = torch.rand(4, 3, 64, 64) * 2 - 1
    other = plain(tokenizer)
    ids = tokenizer.encode(pixels)
    assert torch.equal(other.encode(pixels), ids)
    torch.testing.assert_close(other.decode(ids), tokenizer.decode(ids))
    assert torch.equal(other.codebook.weight[17], torch.cat(halves_of(tokenizer, 17)) / 2**0.5)


def halves_of(tokenizer: ImageTokenizer, id: int) -> list[torch.Tensor]:
    places = (id // 5, id % 5)
    tables = tables_of(tokenizer.codebook)
    return [F.normalize(table[i], dim=0) for (table, _), i in zip(tables, places, strict=True)]


def test_uses_are_counted_for_each_half(tokenizer) -> None:
    counts = count_uses(tokenizer.codebook, torch.tensor([[0, 4], [5, 59]]))
    assert counts[:12].tolist() == [2, 1] + [0] * 9 + [1] and counts[12:].tolist() == [2, 0, 0, 0, 2]


def test_the_shape_is_the_other_pictures_and_the_colour_the_true_ones(tokenizer) -> None:
    training = tokenizer_training(TASK, 0)
    training.model.tokenizer.load_state_dict(tokenizer.state_dict())
    batch = torch.rand(3, 6, 64, 64) * 2 - 1
    read = {}

    def restore(z, quantised):
        read["z"] = z.detach()
        return ImageTokenizer.restore(training.model.tokenizer, z, quantised)

    training.model.tokenizer.restore = restore
    training.loss(training.model, batch, 5)
    true, other = (
        F.normalize(latents_of(tokenizer, half).view(3, -1, 7)[..., part], dim=-1) / 2**0.5
        for half, part in ((batch[:, :3], slice(4, 7)), (batch[:, 3:], slice(0, 4)))
    )
    found = read["z"].flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, torch.cat([other, true], dim=-1), rtol=1e-4, atol=1e-5)


def test_both_halves_learn_and_start_and_are_revived(tmp_path) -> None:
    training = train(Run("product", TASK, (STAGE,)), tmp_path, CPU)
    codebook = training.model.tokenizer.codebook
    assert isinstance(codebook, ProductCodebook)
    torch.manual_seed(0)
    start = tokenizer_training(TASK, 0).model.tokenizer.codebook
    for (now, _), (before, _) in zip(tables_of(codebook), tables_of(start), strict=True):
        assert (now != before).any(dim=1).float().mean() > 0.5
    assert training.model.uses.shape == (17,)


def test_a_training_goes_on_bit_for_bit(tmp_path) -> None:
    run = Run("product", TASK, (STAGE,))
    whole = train(run, tmp_path / "whole", CPU).model.state_dict()
    train(run, tmp_path / "parts", CPU, stop_after=2)
    parts = train(run, tmp_path / "parts", CPU).model.state_dict()
    assert tiny.equal_trees(whole, parts)


def test_a_finished_run_gives_an_ordinary_tokenizer(tmp_path) -> None:
    trained = train(Run("product", TASK, (STAGE,)), tmp_path, CPU).model.tokenizer.eval()
    part = read_part(IMAGE_TOKENIZER, str(tmp_path), 64)
    assert part.config == CONFIG
    found = ImageTokenizer(CONFIG)
    part.fill(found)
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.equal(found.encode(pixels), trained.encode(pixels))
    with pytest.raises(ValueError, match="codebook"):
        load_part(ImageTokenizer(CONFIG), str(tmp_path), "tokenizer.")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_colours": 7}, "num_colours is 7, expected a divisor of num_ids"),
        ({"colour_width": 7}, "colour_width is 7"),
    ],
)
def test_halves_that_do_not_fit_are_refused(changes, words) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(TASK, **changes)


def test_other_sources_are_refused_for_each_kind_of_codebook(tmp_path) -> None:
    assert (TASK.examples, replace(TASK, num_colours=0).examples) == ("recoloured pictures", "pictures")
    run = Run("product", TASK, (replace(STAGE, mixture={"emoji.pictures": 2}),))
    with pytest.raises(ValueError, match=r"'emoji\.pictures' gives pictures, but this needs recoloured pictures"):
        train(run, tmp_path, CPU)
