"""All layers at once against the layers one by one."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from openjanus.inference.body import (
    DecodingModel,
    JoinedAttention,
    JoinedSwiGLU,
    decode_at_once,
    join_linears,
    prepare,
)
from openjanus.inference.quantisation import LINEAR, MAX_DECODE, placer
from openjanus.model.attention import CacheRows, KVCache
from openjanus.model.language_model import LanguageModel, LanguageModelConfig, SwiGLU
from openjanus.runtime import Runtime
from openjanus.testing import tiny_checkpoint
from openjanus.weights import checkpoint
from openjanus.weights.hub import find_checkpoint

pytestmark = pytest.mark.usefixtures("compiled_kernels")
CONFIG = LanguageModelConfig(
    vocab_size=64, width=96, num_layers=3, num_heads=4, num_kv_heads=4, head_width=32, ffn_width=160
)
SHAPES = {
    "as Janus": CONFIG,
    "grouped heads, narrow": replace(CONFIG, num_kv_heads=2, head_width=16),
    "one key head": replace(CONFIG, num_kv_heads=1),
    "wide heads": replace(CONFIG, num_heads=2, num_kv_heads=2, head_width=160),
    "norms and biases": replace(CONFIG, qk_norm=True, qkv_bias=True),
}


def stored(config: LanguageModelConfig, weights: str) -> LanguageModel:
    """Random weights, with norms and biases that matter."""
    torch.manual_seed(0)
    model = LanguageModel(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.dim() == 1))
    for path, module in list(model.layers.named_modules()):
        if isinstance(module, torch.nn.Linear):
            model.layers.set_submodule(path, LINEAR[weights](module.weight, module.bias))
    return model


def at_once(model: LanguageModel) -> DecodingModel:
    decode = decode_at_once(model)
    assert decode is not None
    return DecodingModel(model, decode)


def run(model: LanguageModel, dtype: torch.dtype, T: int) -> tuple[Tensor, KVCache]:
    """Three rows in the middle of a larger cache, of different lengths, continued twice by T positions."""
    config = model.config
    cache = KVCache(config.num_layers, 5, config.num_kv_heads, 40, config.head_width, dtype, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    for part in (cache.keys, cache.values):
        part.copy_(torch.randn(part.shape, generator=generator))
    out = []
    for start in ([0, 3, 21], [T, 3 + T, 21 + T]):
        position = torch.tensor(start)[:, None] + torch.arange(T)
        x = torch.randn(3, T, config.width, generator=generator)
        out.append(model(x, position, cache=cache.rows(1, 4, position, max(start) + T)))
    return torch.cat(out), cache


def error(got: Tensor, expected: Tensor) -> float:
    """Relative to the spread of what is expected."""
    return float((got - expected).square().mean().sqrt() / expected.std())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weights", LINEAR)
@pytest.mark.parametrize("T", [1, 5])
@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_all_layers_at_once_are_the_layers_one_by_one(shape, weights, T, num_threads) -> None:
    torch.set_num_threads(num_threads)
    model = stored(SHAPES[shape], weights)
    expected, remembered = run(model, torch.float32, T)
    got, cache = run(at_once(model), torch.float32, T)
    # int8 and int4 round activations: what differs in the last bit may be rounded to the neighbour
    bound = 1e-2 if weights in ("int8", "int4") else 1e-5
    assert error(got, expected) < bound
    assert error(cache.keys, remembered.keys) < bound and error(cache.values, remembered.values) < bound


def test_a_cache_in_bfloat16_stays_near() -> None:
    model = stored(CONFIG, "bfloat16")
    expected, _ = run(model, torch.float32, 1)
    got, _ = run(at_once(model), torch.bfloat16, 1)
    assert 0 < error(got, expected) < 0.02


@pytest.mark.parametrize("weights", LINEAR)
@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_a_row_does_not_depend_on_its_company(weights, num_threads) -> None:
    """To the last bit, whatever the number of rows: 1 to 9 take every size of tile."""
    torch.set_num_threads(num_threads)
    model = at_once(stored(CONFIG, weights))
    x = torch.randn(9, 1, CONFIG.width, generator=torch.Generator().manual_seed(1))
    position = torch.zeros(9, 1, dtype=torch.int64)
    together = model(x, position, cache=model.make_cache(9, 4).rows(0, 9, position, 1))
    for n in range(1, 9):
        part = model(x[:n], position[:n], cache=model.make_cache(n, 4).rows(0, n, position[:n], 1))
        assert torch.equal(part, together[:n])


@pytest.mark.parametrize("weights", LINEAR)
@pytest.mark.parametrize(
    ("position", "message"),
    [
        ([[0], [4], [1]], "position 4 of row 1 is not in the KV cache, which has 4 positions a row: reserve more"),
        ([[0], [1], [-1]], "position -1 of row 2 is not in the KV cache"),
        ([[0], [1 << 40], [1]], "position 1099511627776 of row 1 is not in the KV cache"),
        ([[0, 1], [3, 4], [1, 2]], "position 4 of row 1 is not in the KV cache"),
        ([[0, 1], [1, 1], [1, 2]], "row 1 continues at position 1 after 1, expected one after the other"),
        ([[0], [1]], r"expected contiguous int64 positions \[3, 1\], got Long \[2, 1\]"),
    ],
)
def test_positions_that_the_cache_does_not_have_are_refused(weights, position, message) -> None:
    model = stored(CONFIG, weights)
    decode, cache = decode_at_once(model), model.make_cache(3, 4)
    assert decode is not None
    position = torch.tensor(position)
    T = position.shape[1]
    x, table = torch.zeros(3, T, CONFIG.width), torch.zeros(2, 3, 1, T, CONFIG.head_width)
    with pytest.raises(ValueError, match=message):
        decode(x, *table, CacheRows(cache, 0, 3, position, 4))
    assert not cache.keys.any() and not cache.values.any()


def test_rows_that_the_cache_does_not_have_are_refused() -> None:
    model = stored(CONFIG, "bfloat16")
    decode, cache, position = decode_at_once(model), model.make_cache(3, 4), torch.zeros(2, 1, dtype=torch.int64)
    assert decode is not None
    x, table = torch.zeros(2, 1, CONFIG.width), torch.zeros(2, 2, 1, 1, CONFIG.head_width)
    with pytest.raises(ValueError, match="2 rows continue, but the KV cache has 1 rows here"):
        decode(x, *table, CacheRows(cache, 2, 4, position, 1))
    with pytest.raises(ValueError, match="KV cache has 3 rows: it has none from 2 to 4"):
        cache.rows(2, 4, position, 1)
    with pytest.raises(ValueError, match=r"expected float x \[B, T, 96\], got Float \[2, 1, 64\]"):
        decode(x[..., :64], *table, CacheRows(cache, 0, 2, position, 1))


def test_large_scores_stand() -> None:
    model = stored(CONFIG, "bfloat16")
    for layer in model.layers:
        layer.attention.q.weight.mul_(100)
    expected, _ = run(model, torch.float32, 1)
    got, _ = run(at_once(model), torch.float32, 1)
    assert error(got, expected) < 1e-4


def test_what_does_not_fit_runs_layer_by_layer() -> None:
    assert decode_at_once(LanguageModel(CONFIG)) is None  # plain matrices
    assert decode_at_once(stored(replace(CONFIG, head_width=8, num_heads=8, num_kv_heads=8), "int8")) is None
    mixed = stored(CONFIG, "int8")
    mixed.layers[1].ffn.up = LINEAR["int4"](torch.zeros(160, 96))
    assert decode_at_once(mixed) is None


@pytest.mark.parametrize("weights", LINEAR)
@pytest.mark.parametrize("T", [1, 5, 33, 60])
def test_joined_linear_layers_give_the_same_to_the_last_bit(weights, T) -> None:
    config = replace(CONFIG, qkv_bias=True, num_kv_heads=2)
    model = stored(config, weights)
    x = torch.randn(3, T, config.width, generator=torch.Generator().manual_seed(1))
    position, document = torch.arange(T).repeat(3, 1), torch.zeros(3, T, dtype=torch.int64)
    expected = model(x, position, document)
    join_linears(model)
    for layer in model.layers:
        assert isinstance(layer.attention, JoinedAttention) and isinstance(layer.ffn, JoinedSwiGLU)
    assert torch.equal(model(x, position, document), expected)


def test_only_layers_of_one_stored_form_are_joined() -> None:
    plain = LanguageModel(CONFIG)
    join_linears(plain)
    assert not any(isinstance(module, (JoinedAttention, JoinedSwiGLU)) for module in plain.modules())
    mixed = stored(CONFIG, "int8")
    mixed.layers[1].ffn.up = LINEAR["int4"](torch.zeros(160, 96))
    join_linears(mixed)
    assert [type(layer.ffn) for layer in mixed.layers] == [JoinedSwiGLU, SwiGLU, JoinedSwiGLU]
    assert all(type(layer.attention) is JoinedAttention for layer in mixed.layers)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_what_inference_puts_around_a_model_keeps_its_names_and_tensors(weights, tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    runtime = Runtime.choose("cpu", weights)
    model = checkpoint.load(find_checkpoint(folder), place=placer(runtime)).model
    before, config = model.state_dict(), model.language_model.config
    prepare(model, runtime)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(after[name].data_ptr() == before[name].data_ptr() for name in before)
    assert isinstance(model.language_model, DecodingModel) and model.language_model.config is config


def test_a_decode_step_is_one_call_and_a_long_prompt_runs_the_layers() -> None:
    model, widths = stored(CONFIG, "int8"), []

    def decode(x: Tensor, cosine: Tensor, sine: Tensor, rows: CacheRows) -> Tensor:
        widths.append(x.shape[1])
        return x

    wrapped = DecodingModel(model, decode, torch.bfloat16)
    cache = wrapped.make_cache(2, 80)
    assert cache.keys.dtype == torch.bfloat16 and model.make_cache(2, 80).keys.dtype == torch.float32
    for T in (1, MAX_DECODE, MAX_DECODE + 1, 80):
        position = torch.arange(T).repeat(2, 1)
        wrapped(torch.zeros(2, T, CONFIG.width), position, cache=cache.rows(0, 2, position, T))
    wrapped(torch.zeros(1, 3, CONFIG.width), torch.arange(3)[None], torch.zeros(1, 3, dtype=torch.int64))
    assert widths == [1, MAX_DECODE]
