"""Parity with the vision towers of transformers at random weights, from the picture on, and where towers come from."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, ViTConfig, ViTForImageClassification

import openjanus
from openjanus import config as configs
from openjanus.model.janus import Janus, JanusConfig
from openjanus.model.tower_eye import TowerEye, TowerEyeConfig
from openjanus.model.vision_encoder import VisionEncoder
from openjanus.processing.image import PixelConfig, understanding_pixels
from openjanus.processing.processor import ProcessorConfig
from openjanus.sequence import UnderstandSpan, collate
from openjanus.starting import towers
from openjanus.starting.start import StartConfig, starting_point
from openjanus.testing import TINY, tiny_checkpoint
from openjanus.weights import checkpoint
from openjanus.weights.tensors import TensorFiles
from tests import tiny
from tests.towers import CLASS_TOKENS, SHAPE, SIDE, TOWERS, make_tower, make_whole

SIZES = ((SIDE, SIDE), (57, 40), (31, 90), (200, 111), (40, 41))


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Smooth, as photos are, with some noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = rng.integers(-9, 10, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


def no_text(name: str):
    raise AssertionError(name)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Each tower's folder, the tower of transformers, and its own preprocessor."""
    folders = {name: tmp_path_factory.mktemp(name.replace(" ", "_")) for name in TOWERS}
    return {name: (folder, *make_tower(name, folder)) for name, folder in folders.items()}


def eye_of(folder, **settings) -> tuple[TowerEye, PixelConfig]:
    config, pixels = towers.read_tower(str(folder), **settings)
    eye = TowerEye(config, 24)
    towers.fill(eye.encoder, folder)
    return eye.eval(), pixels


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_a_tower_sees_a_picture_as_in_transformers(name, made) -> None:
    """Its preprocessor's pixels, and the features of the last layer and of the one before; registers are dropped."""
    folder, theirs, preprocessor = made[name]
    eye, pixels = eye_of(folder)
    before, _ = eye_of(folder, layer=-2)
    for seed, size in enumerate(SIZES):
        image = picture(size, seed)
        expected = torch.as_tensor(np.asarray(preprocessor(image)["pixel_values"]))
        ours = understanding_pixels(image, pixels)[None]
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
        seen = theirs(expected, output_hidden_states=True)
        torch.testing.assert_close(eye.features(ours), seen.last_hidden_state[:, -16:], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(before.features(ours), seen.hidden_states[-2][:, -16:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(CLASS_TOKENS))
@torch.no_grad()
def test_the_class_token_comes_first(name, made) -> None:
    folder, theirs, _ = made[name]
    eye, _ = eye_of(folder, class_token=True)
    pixels = torch.randn(2, 3, SIDE, SIDE)
    features, expected = eye.features(pixels), theirs(pixels).last_hidden_state
    assert features.shape == (2, eye.num_features, 32) and eye.num_features == 17
    torch.testing.assert_close(features[:, :1], expected[:, :1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features[:, 1:], expected[:, -16:], rtol=1e-4, atol=1e-4)


def test_a_tower_without_a_class_token_says_so(made) -> None:
    eye, _ = eye_of(made["siglip 2"][0], class_token=True)
    with pytest.raises(ValueError, match=r"siglip_vision_model gives features \[1, 16, 32\].*16 patches and a class t"):
        eye.features(torch.zeros(1, 3, SIDE, SIDE))


def test_dinov3_resizes_in_float_so_its_pixels_differ_by_rounding(made) -> None:
    """Its one preprocessor needs torchvision: rescaled, then resized with antialiasing, then normalised. We resize
    bytes, as Pillow and the other preprocessors do; within one level of 255."""
    folder, *_ = made["dinov3"]
    pixels = towers.read_pixels(folder)
    for seed, size in enumerate(SIZES):
        image = picture(size, seed)
        levels = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()).float()[None] / 255
        scaled = F.interpolate(levels, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        expected = (scaled[0] - torch.tensor(pixels.mean)[:, None, None]) / torch.tensor(pixels.std)[:, None, None]
        assert (understanding_pixels(image, pixels) - expected).abs().max() < 1 / 255 / min(pixels.std)


@pytest.mark.parametrize("name", TOWERS)
def test_the_stored_config_is_whole(name, made) -> None:
    folder, theirs, _ = made[name]
    config = towers.read_config(folder)
    assert json.loads(json.dumps(config)) == config
    again, before = (c.to_dict() for c in (AutoConfig.for_model(**config), theirs.config))
    indifferent = ("dtype", "architectures", "_name_or_path", "transformers_version")
    assert {k: v for k, v in again.items() if k not in indifferent} == {
        k: v for k, v in before.items() if k not in indifferent
    }


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.no_grad()
def test_of_a_model_with_two_towers_the_vision_tower_is_taken(kind, tmp_path) -> None:
    theirs = make_whole(kind, tmp_path)
    eye, _ = eye_of(tmp_path)
    pixels = torch.randn(1, 3, SIDE, SIDE)
    expected = theirs(pixels).last_hidden_state[:, -16:]
    torch.testing.assert_close(eye.features(pixels), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_classifier_brings_its_tower(made, tmp_path) -> None:
    """It has no pooler, and its names begin with that of the tower."""
    theirs = tiny.shake(ViTForImageClassification(ViTConfig(**SHAPE))).eval()
    theirs.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes((made["vit"][0] / "preprocessor_config.json").read_bytes())
    eye, _ = eye_of(tmp_path)
    pixels = torch.randn(1, 3, SIDE, SIDE)
    torch.testing.assert_close(eye.features(pixels), theirs.vit(pixels).last_hidden_state[:, 1:])


# --- the whole life: starting weights, our own checkpoint


def started(start: dict[str, str], **wanted):
    torch.manual_seed(0)
    return starting_point(StartConfig(start, **wanted), no_text)


@pytest.fixture(scope="module")
def janus_folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("janus") / "model")


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_a_janus_with_a_tower_is_stored_with_all_that_it_needs(name, made, tmp_path, janus_folder, monkeypatch) -> None:
    """Loaded in every dtype, without the tower's folder: the same embeddings."""
    folder, *_ = made[name]
    eye, pixels = towers.read_tower(str(folder), layer=-2, pixel_shuffle=2)
    parts = {"language_model": str(janus_folder), "generation.tokenizer": str(janus_folder)}
    begun = started(
        parts | {"understanding.encoder": str(folder)},
        model=replace(TINY, understanding=eye),
        processor=ProcessorConfig(pixels),
    )
    assert begun.config.model.num_features == 4
    checkpoint.save(begun, tmp_path / "model")
    prefix, published = "understanding.encoder.", TensorFiles(folder).shapes
    stored = {name.removeprefix(prefix) for name in TensorFiles(tmp_path / "model").shapes if name.startswith(prefix)}
    assert stored == {name for name in published if name.split(".")[0] not in ("head", "pooler")}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    kept = checkpoint.load(tmp_path / "model")
    assert kept.config == begun.config
    image = picture((50, 70))
    span = UnderstandSpan(understanding_pixels(image, kept.processor.config.pixels), 4)
    expected = begun.model.embed(collate([[span]]))
    assert torch.equal(kept.model.embed(collate([[span]])), expected)
    for weights, bound in (("bfloat16", 0.1), ("int8", 0.1)):
        stored = openjanus.load(tmp_path / "model", "cpu", weights).model
        assert _distance(stored.embed(collate([[span]])), expected) < bound
    for dtype, bound in ((torch.bfloat16, 0.1), (torch.float16, 0.02)):
        narrow = checkpoint.load(tmp_path / "model", dtype=dtype).model
        assert narrow.understanding.encoder.embeddings is not None
        seen = narrow.embed(collate([[span]]))
        assert seen.dtype == dtype and _distance(seen.float(), expected) < bound


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_a_table_of_parts_with_a_tower_needs_no_model(made, janus_folder) -> None:
    folder, theirs, _ = made["clip"]
    parts = {"language_model": str(janus_folder), "generation.tokenizer": str(janus_folder)}
    begun = started(parts | {"understanding.encoder": str(folder)})
    eye = begun.model.config.understanding
    assert isinstance(eye, TowerEyeConfig) and (eye.layer, eye.class_token, eye.pixel_shuffle) == (-1, False, 1)
    assert begun.processor.config.pixels == towers.read_pixels(folder) and begun.processor.num_features == 16
    state = begun.model.understanding.encoder.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in theirs.state_dict().items())


def test_siglip_is_a_tower_where_the_model_wants_one(tmp_path, janus_folder) -> None:
    make_whole("siglip", tmp_path)
    parts = {"language_model": str(janus_folder), "generation.tokenizer": str(janus_folder)}
    start = parts | {"understanding.encoder": str(tmp_path)}
    assert isinstance(started(start).model.understanding.encoder, VisionEncoder)
    eye, pixels = towers.read_tower(str(tmp_path))
    model = replace(TINY, understanding=eye)
    assert isinstance(started(start, model=model, processor=ProcessorConfig(pixels)).model.understanding, TowerEye)
    own = starting_point(StartConfig(start | {"language_model": str(janus_folder)}), no_text)
    assert not isinstance(own.model.understanding, TowerEye)


def test_an_encoder_of_another_kind_is_one_clear_line(made, janus_folder) -> None:
    parts = {"language_model": str(janus_folder), "generation.tokenizer": str(janus_folder)}
    with pytest.raises(ValueError, match=r"it is a vit, but model\.understanding\.encoder is a VisionEncoderConfig"):
        started(
            parts | {"understanding.encoder": str(made["vit"][0])},
            model=TINY,
            processor=ProcessorConfig(PixelConfig(64)),
        )


@pytest.mark.parametrize("form", ["official", "transformers"])
def test_foreign_formats_have_no_place_for_a_tower(form, made, tmp_path) -> None:
    eye, pixels = towers.read_tower(str(made["clip"][0]))
    config = JanusConfig(tiny.LANGUAGE_MODEL, eye, tiny.GENERATION)
    kept = checkpoint.Checkpoint(Janus(config), tiny.processor(ProcessorConfig(pixels), 16), {})
    with pytest.raises(ValueError, match=rf"the {form} format cannot express these eyes, TowerEyeConfig and VQEye"):
        checkpoint.save(kept, tmp_path / "model", form=form)


# --- what cannot be honoured

WRONG = {
    "no size": ({"size": {"shortest_edge": SIDE}, "do_center_crop": False}, "gives pictures of every size"),
    "uneven": ({"size": {"height": SIDE, "width": 16}, "do_center_crop": False}, r"size\.width is 16"),
    "filter": ({"resample": 0}, "resample is 0, openjanus supports 1 or 2 or 3 only"),
    "not rescaled": ({"do_rescale": False}, "do_rescale is False"),
    "another scale": ({"rescale_factor": 0.5}, "rescale_factor is 0.5"),
    "unknown": ({"crop_pct": 0.9}, "unknown key 'crop_pct'"),
    "small": ({"size": {"shortest_edge": 16}}, "resize_px is 16, expected size_px 32 or more"),
    "no mean": ({"image_mean": None}, r"image_mean is \(\), expected|image_mean is \[\], expected three numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_preprocessors_that_cannot_be_honoured_are_one_clear_line(case, made, tmp_path) -> None:
    changes, message = WRONG[case]
    settings = json.loads((made["clip"][0] / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | changes))
    with pytest.raises(ValueError, match=message) as error:
        towers.read_pixels(tmp_path)
    assert "\n" not in str(error.value)


def test_old_preprocessor_files_name_sizes_by_numbers(tmp_path) -> None:
    old = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "do_normalize": True, "do_resize": True}
    cases = {
        "CLIPFeatureExtractor": ({"size": 32, "crop_size": 32, "do_center_crop": True}, ("crop", 32, 0)),
        "ViTFeatureExtractor": ({"size": 32}, ("squash", 32, 0)),
        "DeiTFeatureExtractor": ({"size": 40, "crop_size": 32, "do_center_crop": True}, ("squash", 32, 40)),
    }
    for kind, (sizes, expected) in cases.items():
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(old | sizes | {"feature_extractor_type": kind}))
        pixels = towers.read_pixels(tmp_path)
        assert (pixels.fit, pixels.size_px, pixels.resize_px) == expected


def test_a_folder_without_preprocessor_or_with_missing_weights_is_one_clear_line(made, tmp_path) -> None:
    folder, _, _ = made["clip"]
    config = (folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"no preprocessor_config\.json, which says how the tower wants its pictures"):
        towers.read_pixels(tmp_path)
    larger = json.loads(config) | {"num_hidden_layers": 4}
    (tmp_path / "config.json").write_text(json.dumps(larger))
    for name in ("model.safetensors", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    eye, _ = towers.read_tower(str(tmp_path))
    with pytest.raises(ValueError, match=r"missing .*layers\.3\..* and 15 more"):
        towers.fill(TowerEye(eye, 8).encoder, tmp_path)


def test_settings_of_pixels_that_old_files_lack_stay_as_they_were() -> None:
    data = configs.to_dict(PixelConfig(16))
    for key in ("fit", "resize_px", "resample"):
        del data[key]
    assert configs.from_dict(PixelConfig, data) == PixelConfig(16)
