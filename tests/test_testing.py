"""The test double for other projects does what its docstring says."""

import pytest
import torch

import openjanus
from openjanus.testing import tiny_checkpoint
from openjanus.weights.checkpoint import FORMATS


@pytest.mark.parametrize("form", FORMATS)
def test_a_tiny_checkpoint_draws_and_answers(form, tmp_path) -> None:
    engine = openjanus.load(tiny_checkpoint(tmp_path / "model", form, "deepseek_old"), "cpu", "float32")
    (image,) = engine.generate("a cat", seed=1)
    assert image.size == (64, 64)
    assert isinstance(engine.ask([image, image], "what differs?", max_new_tokens=4), str)
    assert engine.sizes_px == (64,)


def test_the_seed_gives_the_weights_whatever_the_format(tmp_path) -> None:
    ids = [
        openjanus.load(tiny_checkpoint(tmp_path / f"{form}{seed}", form, seed=seed), "cpu").generate_ids("x", seed=2)
        for form in FORMATS
        for seed in (0, 1)
    ]
    assert torch.equal(ids[0], ids[2]) and torch.equal(ids[0], ids[4])
    assert not torch.equal(ids[0], ids[1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_dtype_draws_and_answers(dtype, tmp_path) -> None:
    engine = openjanus.load(tiny_checkpoint(tmp_path / "model", "official"), "cpu", dtype)
    (image,) = engine.generate("two red apples", temperature=0.5)
    assert len(image.getcolors(64 * 64)) > 10  # not black, as float16 drew in the original
    engine.ask(image, "what is it?", max_new_tokens=4)
