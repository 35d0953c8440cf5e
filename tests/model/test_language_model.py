"""The causal body: what it computes does not depend on how its input is cut, packed or padded."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from openjanus.model.attention import attend_slowly, causal_document_mask, rotary_table, rotate
from openjanus.model.language_model import LanguageModel, RMSNorm
from tests.tiny import LANGUAGE_MODEL, shake

VARIANTS = {
    "plain": {},
    "qk_norm": {"qk_norm": True},
    "qkv_bias": {"qkv_bias": True},
    "tied": {"tie_text_head": True},
    "one_kv_head": {"num_kv_heads": 1},
    "all": {"qk_norm": True, "qkv_bias": True, "tie_text_head": True},
}


def build(**changes) -> LanguageModel:
    return shake(LanguageModel(replace(LANGUAGE_MODEL, **changes))).eval().requires_grad_(False)


def one_document(B: int, T: int):
    """x, position, document of B rows of T positions."""
    return torch.randn(B, T, LANGUAGE_MODEL.width), torch.arange(T).repeat(B, 1), torch.zeros(B, T, dtype=torch.int64)


def forward_slowly(model: LanguageModel, x, position, document):
    """The body as one page of plain formulas."""
    c = model.config

    def norm(x, m):
        return x * (x.square().mean(-1, keepdim=True) + c.rms_eps).rsqrt() * m.weight

    def heads(y, count):
        return y.view(*y.shape[:2], count, c.head_width).transpose(1, 2)

    table, mask = rotary_table(position, c.head_width, c.rope_theta), causal_document_mask(document)
    for layer in model.layers:
        a, f, y = layer.attention, layer.ffn, norm(x, layer.attention_norm)
        q, k = heads(a.q(y), c.num_heads), heads(a.k(y), c.num_kv_heads)
        if c.qk_norm:
            q, k = norm(q, a.q_norm), norm(k, a.k_norm)
        y = attend_slowly(rotate(q, *table), rotate(k, *table), heads(a.v(y), c.num_kv_heads), mask)
        x = x + y.transpose(1, 2).flatten(2) @ a.out.weight.T
        y = norm(x, layer.ffn_norm)
        gate = y @ f.gate.weight.T
        x = x + (gate * gate.sigmoid() * (y @ f.up.weight.T)) @ f.down.weight.T
    return norm(x, model.norm)


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_equals_plain_formulas(variant):
    model = build(**VARIANTS[variant])
    inputs = one_document(2, 7)
    torch.testing.assert_close(model(*inputs), forward_slowly(model, *inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("chunks", [[1] * 9, [5, 1, 1, 2], [1, 8]], ids=str)
def test_cache_changes_nothing(variant, chunks):
    model = build(**VARIANTS[variant])
    x, position, document = one_document(2, 9)
    cache = model.make_cache(3, 9)
    pieces, start = [], 0
    for length in chunks:
        part = slice(start, start + length)
        rows = cache.rows(1, 3, position[:, part], start + length)
        pieces.append(model(x[:, part], position[:, part], cache=rows))
        start += length
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(x, position, document), rtol=0, atol=1e-5)


def test_later_positions_do_not_reach_earlier_ones():
    model = build()
    x, position, document = one_document(1, 8)
    before = model(x, position, document)
    x[:, 5:] += 1
    after = model(x, position, document)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-2)


def test_packed_documents_see_only_themselves():
    model = build()
    lengths = (4, 7, 1)
    alone = [one_document(1, length) for length in lengths]
    padding = 3
    x = torch.cat([*(x for x, _, _ in alone), torch.zeros(1, padding, LANGUAGE_MODEL.width)], dim=1)
    position = torch.cat([*(p for _, p, _ in alone), torch.zeros(1, padding, dtype=torch.int64)], dim=1)
    document = torch.tensor([[0] * 4 + [1] * 7 + [2] + [-1] * padding])
    packed = model(x, position, document)
    for hidden, inputs in zip(packed.split([*lengths, padding], dim=1)[:3], alone, strict=True):
        torch.testing.assert_close(hidden, model(*inputs), rtol=0, atol=1e-5)


def test_left_padding_changes_nothing():
    model = build()
    x, position, document = one_document(1, 6)
    zeros = torch.zeros(1, 4, dtype=torch.int64)
    padded = model(
        torch.cat((torch.full((1, 4, LANGUAGE_MODEL.width), 9.0), x), dim=1),
        torch.cat((zeros, position), dim=1),
        torch.cat((zeros - 1, document), dim=1),
    )
    assert padded.isfinite().all()
    torch.testing.assert_close(padded[:, 4:], model(x, position, document), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm(dtype):
    norm = RMSNorm(16, 1e-6).to(dtype)
    torch.nn.init.normal_(norm.weight)
    x = (torch.randn(3, 16) * 5).to(dtype)
    rows = x.double()
    wanted = torch.stack([row / (row.square().mean() + 1e-6).sqrt() for row in rows]) * norm.weight.double()
    assert norm(x).dtype == dtype
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(norm(x).double(), wanted, **close)


def test_variants_have_the_parameters_they_name():
    plain, biased, normed = build(), build(qkv_bias=True), build(qk_norm=True)
    names = {n: p.shape for n, p in plain.named_parameters()}
    assert {n for n, _ in biased.named_parameters()} - names.keys() == {
        f"layers.{i}.attention.{part}.bias" for i in range(2) for part in "qkv"
    }
    assert {n for n, _ in normed.named_parameters()} - names.keys() == {
        f"layers.{i}.attention.{part}_norm.weight" for i in range(2) for part in "qk"
    }


def test_a_tied_head_is_the_embedding():
    model = build(tie_text_head=True)
    assert model.text_head.weight is model.embedding.weight
    hidden = torch.randn(2, LANGUAGE_MODEL.width)
    assert torch.equal(model.text_head(hidden), F.linear(hidden, model.embedding.weight))
    untied = build()
    assert untied.text_head.weight is not untied.embedding.weight


def test_heads_must_divide_evenly():
    with pytest.raises(ValueError, match="num_heads is 4, expected a multiple of num_kv_heads 3"):
        replace(LANGUAGE_MODEL, num_kv_heads=3)
