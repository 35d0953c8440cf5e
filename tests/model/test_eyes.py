"""The tables of eyes: the type of a config selects the class, and the eye states its own sizes."""

import pytest
import torch
from PIL import Image

from openjanus import config as configs
from openjanus.inference.engine import Engine, load
from openjanus.model.janus import GENERATION, UNDERSTANDING, Janus, JanusConfig
from openjanus.model.shared_eye import SharedEye, SharedEyeConfig
from openjanus.model.siglip_eye import SigLIPEye, SigLIPEyeConfig
from openjanus.model.vq_eye import VQEye, VQEyeConfig
from openjanus.sequence import Kind, TextSpan, UnderstandSpan, collate
from openjanus.weights import checkpoint
from openjanus.weights.config import CheckpointConfig
from tests import tiny

SHARED = JanusConfig(tiny.LANGUAGE_MODEL, SharedEyeConfig(), tiny.GENERATION)


@pytest.fixture(scope="module")
def shared() -> Janus:
    return tiny.janus(SHARED)


def test_the_type_of_a_config_selects_the_class(shared) -> None:
    model = tiny.janus()
    assert UNDERSTANDING[SigLIPEyeConfig] is SigLIPEye and GENERATION[VQEyeConfig] is VQEye
    assert type(model.understanding) is SigLIPEye and type(shared.understanding) is SharedEye
    assert type(model.generation) is type(shared.generation) is VQEye


def test_files_and_overrides_name_an_eye_by_its_type() -> None:
    for config in (tiny.CONFIG, SHARED):
        data = configs.to_dict(config)
        assert data["understanding"]["type"] == type(config.understanding).__name__
        assert configs.from_dict(JanusConfig, data) == config
    changed = configs.override(tiny.CONFIG, ['understanding={"type": "SharedEyeConfig"}'])
    assert changed == SHARED
    with pytest.raises(ValueError, match="unknown type 'SharedEye'; did you mean 'SharedEyeConfig'"):
        configs.override(tiny.CONFIG, ['understanding={"type": "SharedEye"}'])


def test_eyes_and_heads_are_tables_of_the_models_own_parts() -> None:
    model = tiny.janus()
    lm = model.language_model
    assert model.eyes == {
        Kind.TEXT: lm.embedding, Kind.UNDERSTAND: model.understanding, Kind.GENERATE: model.generation
    }  # fmt: skip
    assert model.heads == {Kind.TEXT: lm.text_head, Kind.GENERATE: model.generation.head}


def test_each_eye_states_its_sizes_once(shared) -> None:
    for model, positions in ((tiny.janus(), 4), (shared, 16)):
        c = model.config
        assert model.understanding.num_features == c.num_features == positions and c.understanding_size_px == 16
        assert (c.generation.num_ids, c.generation.num_image_ids, c.generation.grid_side) == (48, 16, 4)


# --- the shared eye (Exp-A of the paper's Table 5)


def test_a_shared_eye_sees_a_picture_as_the_generation_eye_would_draw_it(shared) -> None:
    pixels = tiny.picture_span(3).pixels
    image_ids = shared.generation.tokenizer.encode(pixels[None])[0]
    span = UnderstandSpan(pixels, 16)
    x = shared.embed(collate([[TextSpan([5]), span]]))[0, 1:]
    g = shared.generation
    torch.testing.assert_close(x, g.adaptor(g.embedding.weight[image_ids]), rtol=1e-5, atol=1e-6)


def test_a_shared_eye_has_no_parameters_and_renames_none(shared) -> None:
    assert not list(shared.understanding.parameters())
    names = set(shared.state_dict())
    assert names == {name for name in tiny.janus().state_dict() if not name.startswith("understanding.")}


def test_understanding_through_a_shared_eye_trains_the_one_adaptor(shared) -> None:
    model = shared.requires_grad_()
    loss = model(collate([[UnderstandSpan(tiny.picture_span(1).pixels, 16), TextSpan([5])]]))[0, -1].sum()
    loss.backward()
    named = {name: p.grad is not None and bool(p.grad.any()) for name, p in model.generation.named_parameters()}
    model.requires_grad_(False).zero_grad()
    moved = {name.split(".")[0] for name, has in named.items() if has}
    assert moved == {"embedding", "adaptor"}


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
def test_a_shared_eye_is_saved_loaded_draws_and_answers(weights, tmp_path) -> None:
    checkpoint.save(tiny.checkpoint(SHARED), tmp_path / "model")
    engine = load(tmp_path / "model", "cpu", weights)
    assert isinstance(engine.model.understanding, SharedEye) and engine.processor.num_features == 16
    pictures = [Image.new("RGB", (16, 16), color) for color in ("red", "white")]
    answers = [engine.ask(picture, "what is it?", max_new_tokens=6) for picture in pictures]
    assert all(isinstance(answer, str) for answer in answers)
    assert len(engine.generate("a cat", seed=1)) == 1
    if weights == "float32":
        plain = Engine(tiny.checkpoint(SHARED))
        assert torch.equal(plain.generate_ids("a cat", seed=1), engine.generate_ids("a cat", seed=1))
        assert [plain.ask(picture, "what is it?", max_new_tokens=6) for picture in pictures] == answers


@pytest.mark.parametrize("form", ["official", "transformers"])
def test_foreign_formats_have_no_place_for_a_shared_eye(form, tmp_path) -> None:
    with pytest.raises(ValueError, match=rf"the {form} format cannot express these eyes, SharedEyeConfig and VQEye"):
        checkpoint.save(tiny.checkpoint(SHARED), tmp_path / "model", form=form)


def test_a_processor_of_a_shared_eye_makes_pictures_of_the_tokenizers_size() -> None:
    larger = tiny.with_tokenizer(SHARED, image_size_px=32)
    assert larger.understanding_size_px == 32 and larger.num_features == 64
    with pytest.raises(ValueError, match="size_px is 16, but the understanding eye takes pictures of 32 px"):
        CheckpointConfig(larger, tiny.PROCESSOR)
