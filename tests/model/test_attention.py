"""The fast attention against the textbook formula, its mask against a loop, rotation against complex numbers."""

import pytest
import torch

from openjanus.model import attention
from openjanus.model.attention import KVCache, attend, attend_slowly, causal_document_mask, rotary_table, rotate


def qkv(num_heads: int, num_kv_heads: int, T: int, S: int):
    return torch.randn(2, num_heads, T, 8), torch.randn(2, num_kv_heads, S, 8), torch.randn(2, num_kv_heads, S, 8)


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("masked", [True, False])
def test_attend_equals_the_textbook(num_kv_heads, masked):
    document = torch.tensor([[0, 0, 1, 1, 1, -1], [-1, -1, 0, 0, 0, 0]])
    mask = causal_document_mask(document)[:, :, 3:] if masked else None
    q, k, v = qkv(4, num_kv_heads, 3, 6)
    torch.testing.assert_close(attend(q, k, v, mask), attend_slowly(q, k, v, mask), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("block", [128, 4])
def test_training_in_bfloat16_on_a_cpu_attends_as_the_textbook(masked, block, monkeypatch):
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    q, k, v = (torch.randn(2, 4, 9, 16, generator=torch.Generator().manual_seed(s)) for s in range(3))
    document = torch.tensor([[0] * 4 + [1] * 5, [0] * 7 + [-1] * 2])
    mask = causal_document_mask(document) if masked else None
    x = [t.clone().requires_grad_() for t in (q, k, v)]
    y = [t.clone().requires_grad_() for t in (q, k, v)]
    with torch.autocast("cpu", torch.bfloat16):
        got = attend(*x, mask)
    expected = attend_slowly(*y, mask)
    got.float().square().sum().backward()
    expected.square().sum().backward()
    assert got.dtype == torch.bfloat16 and torch.allclose(got.float(), expected, atol=0.05)
    for a, b in zip(x, y, strict=True):
        assert (a.grad - b.grad).norm() < 0.05 * b.grad.norm()


def test_query_heads_share_their_own_groups_key_head():
    q, k, v = qkv(4, 2, 3, 3)
    for group in range(2):
        heads = slice(2 * group, 2 * group + 2)
        alone = attend_slowly(q[:, heads], k[:, [group, group]], v[:, [group, group]], None)
        torch.testing.assert_close(attend(q, k, v, None)[:, heads], alone, rtol=1e-5, atol=1e-6)


def test_mask_is_true_within_a_document_up_to_the_query():
    document = torch.tensor([[-1, -1, 0, 0, 1], [0, 1, 1, 2, -1]])
    T = 5
    mask = causal_document_mask(document)
    assert mask.shape == (2, 1, T, T)
    for b in range(2):
        for query in range(T):
            for key in range(T):
                allowed = key <= query and document[b, key] == document[b, query]
                assert mask[b, 0, query, key] == allowed


def test_padding_rows_are_finite_and_do_not_reach_others():
    document = torch.tensor([[-1, -1, 0, 0], [0, 0, -1, -1]])
    mask = causal_document_mask(document)
    q, k, v = qkv(4, 2, 4, 4)
    before = attend(q, k, v, mask)
    assert before.isfinite().all()
    padding = (document == -1)[:, None, :, None]
    after = attend(q, k.masked_fill(padding, 100.0), v.masked_fill(padding, -100.0), mask)
    real = ~padding.expand_as(before)
    assert torch.equal(before[real], after[real])


def test_rotation_is_multiplication_by_complex_numbers():
    K, theta = 8, 100.0
    position = torch.tensor([[0, 1, 2, 300], [7, 0, 1, 2]])
    x = torch.randn(2, 3, 4, K)
    turned = rotate(x, *rotary_table(position, K, theta))
    z = torch.complex(x[..., : K // 2].double(), x[..., K // 2 :].double())
    for i in range(K // 2):
        angle = position.double()[:, None] * theta ** (-2 * i / K)
        wanted = z[..., i] * torch.polar(torch.ones_like(angle), angle)
        torch.testing.assert_close(turned[..., i].double(), wanted.real, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(turned[..., i + K // 2].double(), wanted.imag, rtol=1e-4, atol=1e-4)


def test_rotated_products_depend_on_distance_alone():
    q, k = torch.randn(8), torch.randn(8)

    def product(m: int, n: int) -> float:
        rows = torch.stack((q, k)).view(1, 1, 2, 8)
        turned = rotate(rows, *rotary_table(torch.tensor([[m, n]]), 8, 10000.0))
        return float(turned[0, 0, 0] @ turned[0, 0, 1])

    assert product(5, 3) == pytest.approx(product(105, 103), abs=1e-4)
    assert product(5, 3) != pytest.approx(product(5, 4), abs=1e-3)


def test_the_cache_gives_every_row_what_it_remembers():
    """Rows of different lengths, continued in place, against the textbook on each row alone."""
    num_layers, R, S = 2, 3, 9
    cache = KVCache(num_layers, R, 2, S, 8, torch.float32, torch.device("cpu"))
    cache.keys.fill_(1e3)  # what was not written must not matter
    cache.values.fill_(-1e3)
    told = {row: (torch.randn(2, S, 8), torch.randn(2, S, 8)) for row in range(R)}
    for row, length in ((0, 5), (1, 2), (2, 7)):
        k, v = (part[None, :, :length] for part in told[row])
        cache.rows(row, row + 1, torch.arange(length)[None], length).attend(1, torch.randn(1, 4, length, 8), k, v)
    position = torch.tensor([[5, 6], [2, 3]])
    q = torch.randn(2, 4, 2, 8)
    k, v = (
        torch.stack([told[row][part][:, positions] for row, positions in enumerate(position.tolist())])
        for part in (0, 1)
    )
    seen = cache.rows(0, 2, position, 7).attend(1, q, k, v)
    for row, positions in enumerate(position.tolist()):
        for t, p in enumerate(positions):
            k, v = (part[None, :, : p + 1] for part in told[row])
            torch.testing.assert_close(
                seen[row : row + 1, :, t : t + 1], attend_slowly(q[row : row + 1, :, t : t + 1], k, v, None)
            )


def test_a_copied_row_remembers_the_same():
    cache = KVCache(2, 2, 1, 4, 8, torch.float32, torch.device("cpu"))
    cache.keys.normal_()
    cache.values.normal_()
    before = cache.keys.clone()
    cache.copy(0, 1, 3)
    assert torch.equal(cache.keys[:, 1, :, :3], before[:, 0, :, :3])
    assert torch.equal(cache.values[:, 1, :, :3], cache.values[:, 0, :, :3])
    assert torch.equal(cache.keys[:, 1, :, 3:], before[:, 1, :, 3:])


def test_a_full_cache_says_so():
    cache = KVCache(1, 2, 1, 4, 8, torch.float32, torch.device("cpu"))
    with pytest.raises(ValueError, match="5 positions wanted, 4 reserved"):
        cache.rows(0, 1, torch.tensor([[4]]), 5)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_rotary_values_depend_on_the_position_only(num_threads):
    """Neither on the length of the cache nor on what else is looked up, to the last bit."""
    torch.set_num_threads(num_threads)
    K, theta = 12, 10000.0
    device = torch.device("cpu")
    long, *others = (KVCache(1, 3, 1, S, K, torch.float32, device).rotary(theta) for S in (1000, 1, 63, 64, 65, 700))
    for S, tables in zip((1, 63, 64, 65, 700), others, strict=True):
        assert all(torch.equal(table, whole[:S]) for table, whole in zip(tables, long, strict=True))
    torch.testing.assert_close(
        torch.stack(long), torch.stack(rotary_table(torch.arange(1000)[None], K, theta))[:, 0, 0]
    )
    position = torch.tensor([[3, 4], [900, 901], [0, 1]])
    rows = KVCache(1, 3, 1, 1000, K, torch.float32, device).rows(0, 3, position, 902)
    for table, whole in zip(rows.rotary(theta), long, strict=True):
        assert table.shape == (3, 1, 2, K) and torch.equal(table[:, 0], whole[position])
