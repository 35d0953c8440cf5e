"""Sprites: complete pack, and tints whose mean meets the nominal colour in every style."""

import numpy as np
import pytest

from openjanus.emoji.sprites import (
    BACKGROUNDS,
    COLORS,
    NOUNS,
    OBJECTS,
    RECOLOURABLE,
    SPRITE_PX,
    STYLES,
    scaled_sprite,
    sprite,
    tint_weight,
    to_oklab,
)


def test_pack_is_complete():
    assert len(NOUNS) == 40 and len(RECOLOURABLE) == 24 and len(COLORS) == 8 and len(BACKGROUNDS) == 5
    assert len(set(NOUNS) | {info.plural for info in OBJECTS.values()}) == 79  # only fish has no plural of its own
    for style in STYLES:
        for noun in NOUNS:
            alpha = sprite(noun, None, style)[..., 3]
            assert alpha.shape == (SPRITE_PX, SPRITE_PX)
            rows, columns = np.where(alpha > 24)
            assert max(np.ptp(rows), np.ptp(columns)) >= SPRITE_PX - 3, (noun, style)


@pytest.mark.parametrize("style", STYLES)
def test_tint_meets_the_nominal_colour(style):
    for i, noun in enumerate(RECOLOURABLE):
        base = sprite(noun, None, style)
        weight = tint_weight(to_oklab(base[..., :3] / 255.0), base[..., 3] / 255.0, OBJECTS[noun].tint) * base[..., 3]
        assert weight.sum() > 0.3 * base[..., 3].sum(), (noun, style)
        for color in (list(COLORS)[i % 8], list(COLORS)[(i + 3) % 8]):
            mean = (weight[..., None] * sprite(noun, color, style)[..., :3]).sum((0, 1)) / weight.sum()
            distance = {name: np.abs(mean - rgb).max() for name, rgb in COLORS.items()}
            assert min(distance, key=distance.get) == color and distance[color] < 40, (noun, style, color, mean)


def test_backgrounds_are_apart_from_colours():
    for background in BACKGROUNDS.values():
        for color in COLORS.values():
            assert np.linalg.norm(to_oklab(np.array(background) / 255) - to_oklab(np.array(color) / 255)) > 0.1


def test_scaled_sprite_is_premultiplied():
    pixels, keep = scaled_sprite("heart", "red", "noto", 28)
    assert pixels.shape == (28, 28, 3) and keep.shape == (28, 28, 1)
    assert (pixels <= (1 - keep) * 255 + 1.5).all()


def test_errors_name_what_came():
    with pytest.raises(ValueError, match="unicorn"):
        sprite("unicorn", None, "noto")
    with pytest.raises(ValueError, match="cat"):
        sprite("cat", "red", "noto")
    with pytest.raises(ValueError, match="crayon"):
        sprite("heart", "red", "crayon")
