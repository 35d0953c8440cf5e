"""Choosing ids: the distribution, its restrictions against a loop oracle, guidance, and refused settings."""

import math

import pytest
import torch

from openjanus.inference.sampling import Sampler, SamplingOptions, guide, restrict


def test_choices_follow_the_softmax() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    sampler = Sampler(SamplingOptions(temperature=0.7, seed=5), [0])
    n = 4000
    counts = torch.zeros(4)
    for _ in range(n):
        counts[sampler.choose(logits)] += 1
    wanted = (logits[0] / 0.7).softmax(-1)
    assert ((counts / n - wanted).abs() < 4 * (wanted * (1 - wanted) / n).sqrt() + 1e-3).all()


def test_temperature_zero_takes_the_most_probable() -> None:
    logits = torch.randn(5, 9)
    assert torch.equal(Sampler(SamplingOptions(temperature=0.0), range(5)).choose(logits), logits.argmax(-1))


@pytest.mark.parametrize("temperature", [1e-30, 1e-36, 1e-38, 1e-40, 1e-45, 1e-46, 5e-324])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.9), (4, 0.5)])
def test_the_smallest_temperatures_take_the_most_probable(temperature, top_k, top_p) -> None:
    logits = torch.randn(64, 9) * 20
    sampler = Sampler(SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p), range(64))
    assert torch.equal(sampler.choose(logits), logits.argmax(-1))
    assert torch.equal(sampler.probabilities(logits).argmax(-1), logits.argmax(-1))


def test_the_smallest_temperatures_choose_among_equals() -> None:
    logits = torch.tensor([0.0, 7.0, -math.inf, 7.0])
    p = Sampler(SamplingOptions(temperature=1e-40), [0]).probabilities(logits)
    assert p.tolist() == [0.0, 0.5, 0.0, 0.5]


def slow_restrict(row: list[float], top_k: int, top_p: float) -> list[float]:
    order = sorted(range(len(row)), key=lambda i: -row[i])
    kept = order[:top_k] if top_k else order
    total = sum(math.exp(row[i]) for i in kept)
    nucleus, mass = [], 0.0
    for i in kept:
        if mass >= top_p:
            break
        nucleus.append(i)
        mass += math.exp(row[i]) / total
    return [row[i] if i in nucleus else float("-inf") for i in range(len(row))]


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.6), (5, 0.5), (1, 0.1), (50, 0.99)])
def test_restrict_equals_the_loop(top_k, top_p) -> None:
    logits = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
    wanted = torch.tensor([slow_restrict(row, top_k, top_p) for row in logits.tolist()])
    torch.testing.assert_close(restrict(logits, top_k, top_p), wanted)


def test_guidance_is_the_papers_formula() -> None:
    conditional, unconditional = torch.randn(2, 7), torch.randn(2, 7)
    blended = guide([conditional, unconditional], [5.0])
    assert torch.equal(blended, unconditional + 5 * (conditional - unconditional))
    torch.testing.assert_close(guide([conditional, unconditional], [1.0]), conditional)


def test_guidance_by_three_rows_is_that_of_instruct_pix2pix() -> None:
    """arXiv 2211.09800, equation 3: words count `words` times, pictures `pictures` times."""
    full, without_words, nothing = torch.randn(3, 2, 7)
    words, pictures = 7.5, 1.5
    wanted = nothing + pictures * (without_words - nothing) + words * (full - without_words)
    assert torch.equal(guide([full, without_words, nothing], [words, pictures]), wanted)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 6])
def test_rows_count_by_the_differences_of_their_scales(num_rows) -> None:
    rows = torch.randn(num_rows, 3, 7)
    scales = [1 + 2 * k / 3 for k in range(num_rows - 1)][::-1]
    weights = [scale - before for scale, before in zip([*scales, 1.0], [0.0, *scales], strict=True)]
    wanted = sum(weight * row.double() for weight, row in zip(weights, rows, strict=True))
    torch.testing.assert_close(guide(rows, scales), wanted.float())
    assert sum(weights) == pytest.approx(1)
    torch.testing.assert_close(guide(rows, [1.0] * (num_rows - 1)), rows[0])


def test_a_repeated_last_row_changes_no_bit() -> None:
    """So requests with more and with fewer guidance rows can share a step."""
    full, nothing = torch.randn(2, 3, 7) * 20
    wanted = guide([full, nothing], [3.7])
    assert torch.equal(guide([full, nothing, nothing, nothing], [3.7, 1.0, 9.9]), wanted)
    assert torch.equal(guide([full, full, full], [1.0, 1.0]), full)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_guidance_computes_in_float32(dtype) -> None:
    conditional, unconditional = torch.randn(2, 7).to(dtype), torch.randn(2, 7).to(dtype)
    wanted = guide([conditional.float(), unconditional.float()], [5.0])
    for scale in (5.0, torch.full((2, 1), 5.0)):
        blended = guide([conditional, unconditional], [scale])
        assert blended.dtype == torch.float32 and torch.equal(blended, wanted)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", v) for v in (-1.0, math.nan, math.inf)),
        ("top_k", -1),
        *(("top_p", v) for v in (0.0, 1.5, math.nan)),
        *(("guidance", v) for v in (0.5, math.nan, math.inf)),
        *(("image_guidance", v) for v in (0.5, math.nan, math.inf)),
        *(("seed", v) for v in (-1, 2**57)),
        *(("n", v) for v in (0, -1, 65)),
    ],
)
def test_settings_out_of_range_are_refused(name, value) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*, expected"):
        SamplingOptions(**{name: value})


def test_the_largest_seed_and_number_still_draw() -> None:
    largest = SamplingOptions(seed=2**57 - 1, n=64)
    assert Sampler(largest, range(64)).choose(torch.zeros(64, 5)).shape == (64,)


def test_rows_draw_alone_what_they_draw_together() -> None:
    logits, options = torch.randn(3, 50), SamplingOptions(seed=4)
    together = Sampler(options, [0, 1, 2])
    first, second = together.choose(logits), together.choose(logits)
    for k in range(3):
        alone = Sampler(options, [k])
        assert [int(alone.choose(logits[k : k + 1])) for _ in range(2)] == [int(first[k]), int(second[k])]
