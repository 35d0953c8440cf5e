"""The generation eye: look-up against brute force, gradients through it, shapes and errors."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from openjanus.model.image_tokenizer import ImageTokenizer, code_usage
from tests.tiny import IMAGE_TOKENIZER, shake


def build(**changes) -> ImageTokenizer:
    return shake(ImageTokenizer(replace(IMAGE_TOKENIZER, **changes))).eval()


def pixels(M: int = 2, side: int = 16):
    return torch.rand(M, 3, side, side) * 2 - 1


def test_look_up_is_the_nearest_unit_vector():
    model, z = build(), torch.randn(2, 4, 3, 3) * torch.rand(2, 1, 3, 3) * 10
    unit, nearest, ids = model.quantise(z)  # latents of any length
    codes = [code / code.norm() for code in model.codebook.weight.detach()]
    for m in range(2):
        for place in range(9):
            row, column = divmod(place, 3)
            latent = z[m, :, row, column] / z[m, :, row, column].norm()
            distances = [float((latent - code).norm()) for code in codes]
            best = distances.index(min(distances))
            assert ids[m, place] == best
            torch.testing.assert_close(unit[m, :, row, column], latent)
            torch.testing.assert_close(nearest[m, :, row, column], codes[best])


def test_length_of_a_code_does_not_matter():
    model, picture = build(), pixels()
    ids, again = model.encode(picture), model.decode(model.encode(picture))
    with torch.no_grad():
        model.codebook.weight.mul_(torch.rand(IMAGE_TOKENIZER.num_ids, 1) * 5 + 0.1)
    assert torch.equal(model.encode(picture), ids)
    torch.testing.assert_close(model.decode(ids), again)


def test_gradient_passes_the_look_up_as_if_it_were_identity():
    model, picture, weight = build().double(), pixels().double(), torch.randn(2, 3, 16, 16)
    again, unit, nearest, _ = model.reconstruct(picture)
    (again * weight).sum().backward()
    through = model.encoder.conv_in.weight.grad.clone()

    # the same by hand: the decoder's gradient at the codes, handed to the unit latents as it is
    model.zero_grad()
    codes = nearest.detach().requires_grad_()
    (model.decode_codes(codes) * weight).sum().backward()
    unit = F.normalize(model.to_code(model.encoder(picture)), dim=1)
    unit.backward(codes.grad)
    assert through.abs().max() > 0
    torch.testing.assert_close(through, model.encoder.conv_in.weight.grad)


def test_reconstruct_shows_what_encode_and_decode_give():
    model, picture = build(), pixels()
    again, _, _, ids = model.reconstruct(picture)
    assert torch.equal(ids, model.encode(picture))
    torch.testing.assert_close(again, model.decode(ids), rtol=1e-4, atol=1e-5)


def test_not_quantised_the_decoder_reads_the_latents():
    model, picture = build(), pixels()
    again, unit, _, _ = model.reconstruct(picture, quantised=False)
    torch.testing.assert_close(again, model.decode_codes(unit))


@pytest.mark.parametrize(
    ("changes", "side"),
    [({}, 4), ({"stem_px": 1}, 8), ({"stem_px": 4}, 2), ({"width_multipliers": (1, 2, 2)}, 2), ({"stem_px": 8}, 1)],
    ids=str,
)
def test_encode_and_decode_shapes(changes, side):
    model = build(**changes)
    assert (model.config.grid_side, model.config.num_image_ids) == (side, side**2)
    with torch.no_grad():
        ids = model.encode(pixels(3))
        assert ids.shape == (3, side**2) and ids.dtype == torch.int64
        assert ids.min() >= 0 and ids.max() < IMAGE_TOKENIZER.num_ids
        assert model.decode(ids).shape == (3, 3, 16, 16)


def test_decode_lays_ids_out_in_reading_order(monkeypatch):
    model = build()
    monkeypatch.setattr(model, "decode_codes", lambda codes: codes)
    ids = torch.randint(IMAGE_TOKENIZER.num_ids, (2, 16))
    laid = model.decode(ids)
    for m in range(2):
        for number in range(16):
            code = model.codebook.weight[ids[m, number]]
            torch.testing.assert_close(laid[m, :, number // 4, number % 4], code / code.norm())


def test_wrong_number_of_ids_is_a_clear_error():
    with pytest.raises(ValueError, match=r"got 15 image ids a picture, expected 16 \(4 x 4\)"):
        build().decode(torch.zeros(1, 15, dtype=torch.int64))


def test_codes_start_on_the_unit_sphere():
    model = ImageTokenizer(IMAGE_TOKENIZER)
    torch.testing.assert_close(model.codebook.weight.norm(dim=1), torch.ones(IMAGE_TOKENIZER.num_ids))


@pytest.mark.parametrize(
    ("ids", "share", "perplexity"),
    [
        ([[0, 1], [2, 3]], 0.5, 4.0),
        ([[5, 5], [5, 5]], 0.125, 1.0),
        ([[0, 1, 2, 3], [4, 5, 6, 7]], 1.0, 8.0),
        ([[0, 0, 0, 1]], 0.25, math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))),
    ],
)
def test_code_usage(ids, share, perplexity):
    assert code_usage(torch.tensor(ids), 8) == pytest.approx((share, perplexity))


def test_ids_of_a_local_encoder_depend_on_their_own_square_alone():
    model, picture = build(local_encoder=True), pixels(1)
    side = model.config.image_size_px // model.config.grid_side
    before = model.to_code(model.encoder(picture)).flatten(2)
    for place in (0, 5, 15):
        row, column = divmod(place, model.config.grid_side)
        changed = picture.clone()
        changed[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side] += 0.5
        moved = (model.to_code(model.encoder(changed)).flatten(2) != before).any(dim=1)[0]
        assert moved.nonzero().flatten().tolist() == [place]
    everywhere = build()
    changed = (everywhere.to_code(everywhere.encoder(picture)) != everywhere.to_code(everywhere.encoder(changed))).any(
        1
    )
    assert changed.all()  # LlamaGen's encoder
