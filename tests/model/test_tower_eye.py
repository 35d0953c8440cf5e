"""The eye that takes any vision tower: what its config accepts, what it makes of features, and its whole life."""

import builtins

import pytest
import torch

from openjanus import config as configs
from openjanus.model.janus import JanusConfig
from openjanus.model.tower_eye import TowerEye, TowerEyeConfig, make_tower, shuffle_pixels
from tests import tiny
from tests.towers import SHAPE, TOWERS
from tests.toys.live_through import live_through

CLIP = SHAPE | {"model_type": "clip_vision_model", "image_size": 16, "patch_size": 4}
DINOV3 = SHAPE | {"model_type": "dinov3_vit", "image_size": 16, "patch_size": 4, "num_register_tokens": 2}


def janus_with(eye: TowerEyeConfig) -> JanusConfig:
    return JanusConfig(tiny.LANGUAGE_MODEL, eye, tiny.GENERATION)


@pytest.mark.parametrize(
    "eye",
    [TowerEyeConfig(CLIP, layer=-2, pixel_shuffle=2), TowerEyeConfig(DINOV3, class_token=True)],
    ids=["clip", "dinov3"],
)
def test_a_janus_with_a_tower_trains_is_stored_draws_and_answers(eye, tmp_path) -> None:
    live_through(janus_with(eye), tmp_path)


def test_files_and_overrides_hold_the_towers_config() -> None:
    config = janus_with(TowerEyeConfig(CLIP))
    assert configs.from_dict(JanusConfig, configs.to_dict(config)) == config
    changed = configs.override(config, ["understanding.encoder.patch_size=8", "understanding.layer=-2"])
    assert changed.num_features == 4 and changed.understanding_size_px == 16


def test_positions_are_known_from_the_config() -> None:
    cases = {(1, False): 16, (1, True): 17, (2, False): 4, (4, False): 1}
    for (side, token), expected in cases.items():
        assert janus_with(TowerEyeConfig(CLIP, 0, -1, token, side)).num_features == expected
    assert janus_with(TowerEyeConfig(DINOV3, 32)).num_features == 64
    assert janus_with(TowerEyeConfig(CLIP | {"patch_size": 5})).num_features == 9  # as 384 px in patches of 14
    assert janus_with(TowerEyeConfig(CLIP | {"image_size": [16, 16], "patch_size": [4, 4]})).num_features == 16


def test_pixel_shuffle_joins_squares_of_neighbours() -> None:
    x = torch.randn(2, 16, 5)
    shuffled = shuffle_pixels(x, 2)
    for i in range(2):
        for j in range(2):
            rows = [(2 * i + a) * 4 + 2 * j + b for a in range(2) for b in range(2)]
            assert torch.equal(shuffled[:, 2 * i + j], x[:, rows].flatten(1))
    assert shuffle_pixels(x, 1) is x


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_a_tower_on_the_meta_device_has_its_tables(name) -> None:
    """What no file holds, such as rotary frequencies, is there once the parameters are."""
    config = SHAPE | TOWERS[name][1] | {"model_type": TOWERS[name][0]}
    torch.manual_seed(0)
    plain = make_tower(config)
    with torch.device("meta"):
        hollow = make_tower(config)
    assert all(p.is_meta for p in hollow.parameters()) and not any(b.is_meta for b in hollow.buffers())
    hollow.load_state_dict(plain.state_dict(), assign=True)
    pixels = torch.randn(1, 3, config["image_size"], config["image_size"])
    assert torch.equal(hollow(pixels).last_hidden_state, plain(pixels).last_hidden_state)


def test_a_tower_is_never_put_into_training_mode() -> None:
    eye = TowerEye(TowerEyeConfig(SHAPE | {"model_type": "vit", "hidden_dropout_prob": 0.9}), 16).train()
    assert eye.training and eye.adaptor.training and not any(m.training for m in eye.encoder.modules())
    pixels = torch.randn(1, 3, 32, 32)
    assert torch.equal(eye(pixels), eye(pixels))


WRONG = {
    "no type": ({"model_type": None}, {}, r"encoder\.model_type is missing: give the whole config"),
    "no size": (
        {"image_size": None},
        {},
        r"encoder\.image_size is None, expected a number of 1 or more: towers have a",
    ),
    "oblong": ({"image_size": [16, 32]}, {}, r"encoder\.image_size is \[16, 32\], expected a number"),
    "patches": ({"patch_size": 17}, {}, r"size_px is 16, but encoder\.patch_size is 17"),
    "layer": ({}, {"layer": 4}, "layer is 4, expected -4 to 3"),
    "shuffle": ({}, {"pixel_shuffle": 3}, "pixel_shuffle is 3, expected a divisor of the 4 patches of a side"),
    "token": ({}, {"pixel_shuffle": 2, "class_token": True}, "and no class_token beside them"),
    "stages": ({"depths": [2, 2]}, {}, r"encoder\.depths: a tower that has it does not give one feature for each"),
    "code": ({"_attn_implementation": "a/b"}, {}, r"encoder\._attn_implementation is not of the tower's shape: leave"),
    "more code": ({"attn_implementation": "a/b"}, {}, r"encoder\.attn_implementation is not of the tower's shape"),
    "hidden patches": ({"mask_ratio": 0.75}, {}, r"encoder\.mask_ratio: a tower that has it"),
}


@pytest.mark.parametrize("case", WRONG)
def test_configs_of_other_towers_are_one_clear_line(case) -> None:
    changes, settings, message = WRONG[case]
    with pytest.raises(configs.ConfigError, match=message):
        TowerEyeConfig(CLIP | changes, **settings)


def test_what_transformers_makes_no_tower_of_is_one_clear_line() -> None:
    for model_type in ("gone", "blip_vision_model"):
        with pytest.raises(ValueError, match=f"transformers makes no vision tower of {model_type}: ") as error:
            make_tower(CLIP | {"model_type": model_type})
        assert "\n" not in str(error.value)


def test_without_transformers_the_extra_is_named(monkeypatch) -> None:
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "transformers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert TowerEyeConfig(CLIP).grid_side == 4  # sizes need no transformers
    with pytest.raises(ValueError, match=r"a vision tower needs transformers: pip install 'openjanus\[towers\]'"):
        make_tower(CLIP)
