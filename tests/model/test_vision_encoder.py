"""The understanding eye against plain formulas, and its patches in reading order."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from openjanus.model.attention import attend_slowly
from openjanus.model.vision_encoder import VisionEncoder
from tests.tiny import VISION_ENCODER, shake


def build(**changes) -> VisionEncoder:
    return shake(VisionEncoder(replace(VISION_ENCODER, **changes))).eval().requires_grad_(False)


def patches_in_reading_order(pixels, side: int):
    rows, columns = pixels.shape[2] // side, pixels.shape[3] // side
    return [
        pixels[:, :, r * side : (r + 1) * side, c * side : (c + 1) * side] for r in range(rows) for c in range(columns)
    ]


def mlp(x, m):
    return F.gelu(x @ m.up.weight.T + m.up.bias) @ m.down.weight.T + m.down.bias


def norm(x, m):
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-6).sqrt() * m.weight + m.bias


def heads(x, num_heads: int):
    return x.view(*x.shape[:2], num_heads, -1).transpose(1, 2)


def encode_slowly(model: VisionEncoder, pixels):
    c, weight = model.config, model.patch.weight.flatten(1)
    x = torch.stack([p.flatten(1) @ weight.T + model.patch.bias for p in patches_in_reading_order(pixels, c.patch_px)])
    x = x.transpose(0, 1) + model.position
    for block in model.blocks:
        a, y = block.attention, norm(x, block.attention_norm)
        q, k, v = (y @ w.T + b for w, b in zip(a.qkv.weight.chunk(3), a.qkv.bias.chunk(3), strict=True))
        y = attend_slowly(*(heads(z, c.num_heads) for z in (q, k, v)), None).transpose(1, 2).flatten(2)
        x = x + y @ a.out.weight.T + a.out.bias
        x = x + mlp(norm(x, block.mlp_norm), block.mlp)
    return norm(x, model.norm)


def test_features_equal_plain_formulas():
    model = build(image_size_px=24)
    pixels = torch.rand(2, 3, 24, 24) * 2 - 1
    features = model(pixels)
    assert features.shape == (2, 9, VISION_ENCODER.width)
    torch.testing.assert_close(features, encode_slowly(model, pixels), rtol=1e-4, atol=1e-5)


def test_patches_stand_in_reading_order():
    model = build(image_size_px=24)
    model.blocks = torch.nn.ModuleList()  # without blocks each feature sees its own patch alone
    pixels = torch.rand(1, 3, 24, 24)
    before = model(pixels)
    for number in range(9):
        changed = pixels.clone()
        row, column = divmod(number, 3)
        changed[:, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] += 1
        moved = (model(changed) != before).any(dim=-1)[0]
        assert moved.nonzero()[:, 0].tolist() == [number]


def test_every_feature_sees_every_patch():
    model = build()
    pixels = torch.rand(1, 3, 16, 16)
    before = model(pixels)
    pixels[:, :, :8, :8] += 1
    assert ((model(pixels) - before).abs().amax(dim=-1) > 1e-3).all()


def test_pooling_head_equals_plain_formulas():
    model = build(pooling_head=True)
    h, x = model.pooling_head, torch.randn(2, 4, VISION_ENCODER.width)
    q = (h.latent @ h.q.weight.T + h.q.bias).expand(2, -1, -1)
    k, v = (x @ w.T + b for w, b in zip(h.kv.weight.chunk(2), h.kv.bias.chunk(2), strict=True))
    y = attend_slowly(*(heads(z, h.num_heads) for z in (q, k, v)), None).transpose(1, 2).flatten(1)
    y = y @ h.out.weight.T + h.out.bias
    torch.testing.assert_close(h(x), y + mlp(norm(y, h.norm), h.mlp), rtol=1e-4, atol=1e-5)


def test_patches_must_divide_the_picture():
    with pytest.raises(ValueError, match="image_size_px is 16, expected a multiple of patch_px 6"):
        replace(VISION_ENCODER, patch_px=6)
