"""Stored matrices and the kernels that read them: equal to the matrices that they stand for, in any company."""

import logging

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from openjanus.inference import kernels
from openjanus.inference.body import DecodingModel
from openjanus.inference.engine import Engine, load
from openjanus.inference.quantisation import (
    GROUP,
    LINEAR,
    BFloat16Linear,
    Float32Linear,
    Int4Linear,
    Int8Linear,
    StoredEmbedding,
    StoredLinear,
    fast_dtype,
)
from openjanus.processing.processor import Message
from openjanus.sequence import Kind, TextSpan, collate
from openjanus.testing import tiny_checkpoint

with_kernels = pytest.mark.usefixtures("compiled_kernels")
KINDS = pytest.mark.parametrize("kind", LINEAR)
FLOATS = ("float32", "float16", "bfloat16")  # whose kernels leave activations as they are


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rounded(x: Tensor) -> Tensor:
    """Activations as the int8 and int4 kernels see them: whole multiples of a scale for each group."""
    groups = x.unflatten(-1, (-1, GROUP))
    scale = groups.abs().amax(-1, keepdim=True) / 127
    return (torch.round(groups / scale) * scale).flatten(-2)


@with_kernels
@KINDS
@pytest.mark.parametrize("num_threads", [1, 2, 4])
@pytest.mark.parametrize("M", [1, 2, 3, 4, 7, 8, 9, 16, 17, 131])
def test_a_kernel_gives_the_product_with_the_dequantised_matrix(kind, M, num_threads) -> None:
    torch.set_num_threads(num_threads)
    layer, x = LINEAR[kind](noise(80, 96)), noise(M, 96, seed=1)
    expected = F.linear((x if kind in FLOATS else rounded(x)).double(), layer.dequantised().double())
    assert torch.allclose(layer(x).double(), expected, atol=1e-4)


@with_kernels
@KINDS
def test_a_long_sequence_gets_the_product_with_the_dequantised_matrix(kind) -> None:
    layer, x = LINEAR[kind](noise(80, 96)), noise(2, 131, 96, seed=1)
    expected = F.linear((x if kind in FLOATS else rounded(x)).double(), layer.dequantised().double())
    # bfloat16 rounds activations to it, too, where that is fast: 96 products of about 1 then err by some 0.05
    rough = kind == "bfloat16" and fast_dtype() != torch.float32
    assert torch.allclose(layer(x).double(), expected, atol=0.3 if rough else 1e-4)


@with_kernels
def test_the_largest_whole_numbers_do_not_overflow() -> None:
    """Pairs of products are summed in 16 bits on the way."""
    signs = torch.where(noise(16, 64) > 0, 1.0, -1.0)
    for x in (torch.ones(8, 64), -torch.ones(8, 64)):
        assert torch.allclose(Int8Linear(signs)(x), F.linear(x, signs), rtol=1e-5)
        for extreme in (-8.0, 7.0):
            matrix = torch.full((16, 64), extreme)
            matrix[:, ::GROUP] = -8.0  # fixes the scale at 1
            assert torch.allclose(Int4Linear(matrix)(x), F.linear(x, matrix), rtol=1e-5)


@KINDS
def test_a_stored_matrix_stays_near_the_original(kind) -> None:
    matrix = noise(64, 128)
    error = (LINEAR[kind](matrix).dequantised() - matrix).norm() / matrix.norm()
    assert error <= {"float32": 0, "float16": 3e-4, "bfloat16": 0.002, "int8": 0.01, "int4": 0.09}[kind]


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize(("O", "K"), [(35, 96), (80, 50), (1, 1)])
def test_a_matrix_of_any_shape_is_stored_as_floats(kind, O, K) -> None:  # noqa: E741
    matrix, bias, x = noise(O, K), noise(O, seed=2), noise(5, 3, K, seed=1)
    layer = LINEAR[kind](matrix, bias)
    assert torch.equal(layer.dequantised(), matrix.to(layer.dtype).float())
    assert torch.allclose(layer(x), F.linear(x, layer.dequantised(), bias), atol=1e-5)


def test_int4_gives_back_what_it_can_hold() -> None:
    whole = torch.randint(-8, 8, (16, 64), generator=torch.Generator().manual_seed(0)).float()
    whole[:, ::GROUP] = -8
    assert torch.equal(Int4Linear(whole / 16).dequantised(), whole / 16)


@KINDS
def test_zeros_stay_zeros(kind) -> None:
    layer = LINEAR[kind](torch.zeros(16, 32))
    assert torch.equal(layer(torch.zeros(2, 32)), torch.zeros(2, 16))


@KINDS
def test_a_bias_is_added_and_leading_shapes_stay(kind) -> None:
    matrix, bias, x = noise(16, 32), noise(16, seed=2), noise(2, 3, 32, seed=1)
    difference = LINEAR[kind](matrix, bias)(x) - LINEAR[kind](matrix)(x)
    assert torch.allclose(difference, bias.expand(2, 3, 16), atol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def engines(folder) -> dict[str, Engine]:
    return {weights: load(folder, "cpu", weights) for weights in LINEAR}


def test_what_is_stored_how(engines) -> None:
    model = engines["int4"].model
    kinds = {name: type(module) for name, module in model.named_modules()}
    body = [kind for name, kind in kinds.items() if name.startswith("language_model.layers.") and name[-1] != "m"]
    assert body.count(Int4Linear) == 2 * 7
    assert kinds["language_model.text_head"] is kinds["generation.head.out"] is Int4Linear
    assert kinds["understanding.adaptor.up"] is kinds["generation.adaptor.out"] is Int4Linear
    assert kinds["generation.adaptor.up"] is Float32Linear  # 8 inputs: no group
    assert kinds["language_model.embedding"] is StoredEmbedding
    assert BFloat16Linear in {k for name, k in kinds.items() if name.startswith("understanding.encoder")}
    assert not any(issubclass(k, StoredLinear) for n, k in kinds.items() if n.startswith("generation.tokenizer"))


@pytest.mark.parametrize(("weights", "bound"), [("float16", 0.005), ("bfloat16", 0.02), ("int8", 0.05), ("int4", 0.5)])
def test_logits_stay_near_float32(engines, weights, bound) -> None:
    """Both faces of a picture and a question; the bound is in standard deviations of the logits."""
    exact, stored = engines["float32"], engines[weights]
    message = Message("user", [Image.new("RGB", (64, 64), "red"), "what is it?"])
    batch = collate([exact.processor.prompt([message])])
    for kind in (Kind.TEXT, Kind.GENERATE):
        wanted, got = (e.model.heads[kind](e.model(batch)) for e in (exact, stored))
        assert (got - wanted).square().mean().sqrt() < bound * wanted.std()


@with_kernels
@KINDS
def test_the_kernels_give_what_the_plain_formulas_give(engines, kind, monkeypatch) -> None:
    batch = collate([[TextSpan(range(1, 17))]])
    fast = engines[kind].model.heads[Kind.GENERATE](engines[kind].model(batch))
    monkeypatch.setattr(kernels, "available", lambda: False)
    plain = engines[kind].model.heads[Kind.GENERATE](engines[kind].model(batch))
    error = (fast - plain).square().mean().sqrt() / plain.std()
    assert error < (1e-4 if kind in FLOATS else 0.03)  # int8 and int4 round activations, too


@KINDS
def test_both_doors_work(engines, kind) -> None:
    engine = engines[kind]
    (picture,) = engine.generate("two red apples", seed=1)
    assert picture.size == (64, 64)
    assert isinstance(engine.ask(picture, "what is it?", max_new_tokens=4), str)


def test_a_tied_head_is_stored_beside_its_embedding() -> None:
    model = load("nano", "cpu", "int8").model.language_model
    assert isinstance(model.text_head, Int8Linear) and isinstance(model.embedding, StoredEmbedding)
    error = (model.text_head.dequantised() - model.embedding.weight.float()).norm() / model.embedding.weight.norm()
    assert error < 0.02


def test_without_a_compiler_one_line_says_so_and_the_plain_formulas_run(folder, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernels, "compiler", lambda: [])
    kernels._load.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            engine = load(folder, "cpu", "int8")
            model = engine.model.language_model
            assert isinstance(model, DecodingModel) and model.decode is None
            assert len(engine.generate("two red apples", seed=1)) == 1
        assert len(caplog.messages) == 1 and "no C++ compiler here" in caplog.messages[0]
    finally:
        kernels._load.cache_clear()
