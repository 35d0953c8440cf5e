"""The training of a semantic tokenizer: its loss, what it moves, and the way of its parts into a Janus."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from openjanus.config import ConfigError
from openjanus.data.config import DataConfig
from openjanus.data.sources import find_text_tokenizer
from openjanus.eyes.contrastive import ContrastiveTraining
from openjanus.eyes.semantic import Teacher
from openjanus.eyes.tokenizer import TokenizerAndDiscriminator, TokenizerTraining, tokenizer_training
from openjanus.inference.engine import Engine
from openjanus.model.janus import JanusConfig
from openjanus.model.semantic_eye import SemanticEyeConfig
from openjanus.model.semantic_tokenizer import SemanticDecoder
from openjanus.model.shared_eye import SharedEyeConfig
from openjanus.model.siglip_eye import SigLIPEyeConfig
from openjanus.model.vision_encoder import VisionEncoderConfig
from openjanus.model.vq_eye import VQEyeConfig
from openjanus.processing.image import PixelConfig
from openjanus.processing.processor import Processor, ProcessorConfig
from openjanus.runtime import Runtime
from openjanus.starting.parts import read_part
from openjanus.starting.start import SHARED, StartConfig, starting_point
from openjanus.training.janus import JanusTraining
from openjanus.training.run import Run, make_training, train
from openjanus.training.stage import Stage
from openjanus.weights import checkpoint
from openjanus.weights.config import Checkpoint
from tests import tiny
from tests.eyes.test_tokenizer_losses import NOTHING, Parts
from tests.families import language_model
from tests.remembering import DECODER

CPU = Runtime(torch.device("cpu"), "float32", "test")
TOKENIZER = NOTHING.tokenizer  # 32-px pictures of 64 ids
ENCODER = replace(tiny.VISION_ENCODER, image_size_px=32, patch_px=4)  # 64 features
STAGE = Stage("all", 2, 1e-3, {"emoji.pictures": 2})


def save_janus(folder: Path, encoder: VisionEncoderConfig) -> str:
    model = tiny.janus(replace(tiny.CONFIG, understanding=SigLIPEyeConfig(encoder)))
    settings = ProcessorConfig(PixelConfig(size_px=encoder.image_size_px))
    checkpoint.save(Checkpoint(model, Processor(settings, tiny.text_tokenizer(), encoder.num_features), {}), folder)
    return str(folder)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    """A Janus whose encoder gives a feature for each id."""
    return save_janus(tmp_path_factory.mktemp("teacher") / "model", ENCODER)


def task(teacher: str, **changes) -> TokenizerTraining:
    return replace(NOTHING, semantic=DECODER, teacher=teacher, **changes)


def slow_distance(parts: Parts, teacher: str, codes: torch.Tensor) -> torch.Tensor:
    """Place by place: 1 - a·b / (|a| |b|)."""
    model = tiny.janus(replace(tiny.CONFIG, understanding=SigLIPEyeConfig(ENCODER)))
    seen = model.understanding.encoder(parts.x)
    predicted = parts.model.semantic(codes.flatten(2).transpose(1, 2))
    distances = []
    for picture, target in zip(predicted, seen, strict=True):
        for a, b in zip(picture, target, strict=True):
            distances.append(1 - (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt()))
    return torch.stack(distances).mean()


def test_the_loss_is_a_quarter_of_one_minus_the_cosine(teacher) -> None:
    for weights, weight in (({}, 0.25), ({"semantic_weight": 2.0}, 2.0)):
        parts = Parts(task(teacher, **weights))
        tiny.shake(parts.model.semantic)
        away = slow_distance(parts, teacher, parts.z + (parts.e - parts.z).detach())
        assert 0.5 < away < 1.5
        parts.check(weight * away + (parts.z.detach() - parts.e).square().mean())


def test_it_moves_encoder_and_decoder_and_the_codebook_learns_from_its_own_loss_only(teacher) -> None:
    parts = Parts(task(teacher))
    tiny.shake(parts.model.semantic)
    away = slow_distance(parts, teacher, parts.z + (parts.e - parts.z).detach())
    assert parts.moved(away) == {"tokenizer.encoder", "tokenizer.to_code", "semantic"}
    found = parts.gradients(parts.loss())["tokenizer.codebook.weight"]
    own = parts.gradients((parts.z.detach() - parts.e).square().mean())["tokenizer.codebook.weight"]
    torch.testing.assert_close(found, own)
    assert own.any()


def test_before_quantisation_it_reads_the_latents_themselves(teacher) -> None:
    parts = Parts(task(teacher, quantise_start=10))
    tiny.shake(parts.model.semantic)
    parts.check(0.25 * slow_distance(parts, teacher, parts.z), step=9)


def test_the_teacher_is_no_part_of_the_model_and_changes_no_initial_value(teacher) -> None:
    with_teacher = tokenizer_training(task(teacher), 0).model
    assert not any("teacher" in name for name in with_teacher.state_dict())
    torch.manual_seed(0)
    one = tokenizer_training(task(teacher), 0).model.state_dict()
    torch.manual_seed(0)
    other = tokenizer_training(NOTHING, 0).model.state_dict()
    assert all(torch.equal(one[name], tensor) for name, tensor in other.items() if name.startswith("tokenizer."))


def test_a_teacher_of_another_size_sees_the_picture_in_its_own(tmp_path) -> None:
    source = save_janus(tmp_path / "model", replace(ENCODER, image_size_px=64, patch_px=8))
    teacher = Teacher(source, TOKENIZER, DECODER)
    assert teacher(torch.zeros(2, 3, 32, 32)).shape == (2, 64, 32)


def test_a_teacher_that_does_not_fit_is_refused(teacher) -> None:
    with pytest.raises(ValueError, match="it gives 64 features of width 32, expected 64 of width 48"):
        tokenizer_training(replace(task(teacher), semantic=replace(DECODER, feature_width=48)), 0)
    with pytest.raises(ConfigError, match="teacher and semantic belong together"):
        replace(NOTHING, teacher=teacher)
    with pytest.raises(ConfigError, match="teacher and semantic belong together"):
        replace(NOTHING, semantic=DECODER)


# --- from the run into a Janus


@pytest.fixture(scope="module")
def trained(teacher, tmp_path_factory) -> tuple[Path, TokenizerAndDiscriminator]:
    folder = tmp_path_factory.mktemp("runs") / "semantic"
    return folder, train(Run("semantic", task(teacher), (STAGE,)), folder, CPU).model


def test_a_run_gives_both_parts_to_a_janus_which_draws_and_can_give_them_again(trained, tmp_path) -> None:
    folder, model = trained
    body = replace(tiny.LANGUAGE_MODEL, max_positions=256)
    c = JanusConfig(body, SharedEyeConfig(), SemanticEyeConfig(TOKENIZER, 32, DECODER))
    parts = {"generation.tokenizer": str(folder), "generation.semantic": str(folder)}
    start = {"text_tokenizer": "emoji", "understanding.encoder": SHARED, **parts}
    made = starting_point(StartConfig(start, model=c), find_text_tokenizer)
    eye = made.model.generation
    for part in ("tokenizer", "semantic"):
        state = getattr(model, part).state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in getattr(eye, part).state_dict().items())
    assert len(Engine(made).generate("a cat", seed=1)) == 1
    checkpoint.save(made, tmp_path / "model")
    again = SemanticDecoder(DECODER, TOKENIZER.code_width, TOKENIZER.num_image_ids)
    read_part("generation.semantic", str(tmp_path / "model"), 32).fill(again)
    assert all(torch.equal(tensor, eye.semantic.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_parts_alone_make_a_janus_with_one_eye(trained, tmp_path) -> None:
    folder, _ = trained
    language_model("llama-2", tmp_path / "llama")
    parts = {"language_model": str(tmp_path / "llama"), "generation.tokenizer": str(folder)}
    one = starting_point(StartConfig({**parts, "understanding.encoder": SHARED}), find_text_tokenizer).config.model
    assert (type(one.understanding), type(one.generation)) == (SharedEyeConfig, VQEyeConfig)
    start = {**parts, "understanding.encoder": SHARED, "generation.semantic": str(folder)}
    two = starting_point(StartConfig(start), find_text_tokenizer).config.model
    assert (type(two.understanding), type(two.generation)) == (SharedEyeConfig, SemanticEyeConfig)


def test_what_a_start_cannot_be_is_one_clear_line(trained, teacher) -> None:
    folder, _ = trained
    start = {"text_tokenizer": "emoji", "understanding.encoder": SHARED}
    with pytest.raises(ValueError, match=r"understanding\.encoder is shared, but the model's eye is SigLIPEyeConfig"):
        starting_point(StartConfig(start, model=tiny.CONFIG), find_text_tokenizer)
    wrong = {"text_tokenizer": "emoji", "generation.semantic": str(folder)}
    with pytest.raises(ValueError, match=r"start names generation\.semantic, but the model's VQEyeConfig has none"):
        starting_point(StartConfig(wrong, model=tiny.CONFIG), find_text_tokenizer)
    with pytest.raises(ValueError, match=r"has no generation\.semantic"):
        read_part("generation.semantic", teacher, 32)


def test_a_run_without_a_semantic_decoder_gives_none(tmp_path) -> None:
    train(Run("plain", NOTHING, (STAGE,)), tmp_path / "plain", CPU)
    with pytest.raises(ValueError, match=r"a run of TokenizerTraining, which gives no generation\.semantic"):
        read_part("generation.semantic", str(tmp_path / "plain"), 32)


# --- pictures of the user's own


def test_a_tokenizer_learns_from_a_folder_of_pictures_without_captions(tmp_path) -> None:
    for number in range(4):
        folder = tmp_path / "pictures" / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 32), (60 * number, 0, 0)).save(folder / f"{number}.png")
    own = replace(NOTHING, data={"data": DataConfig(str(tmp_path / "pictures"), held_out=0.0)})
    stage = Stage("all", 2, 1e-3, {"data": 4, "emoji.pictures": 1})
    training = make_training(Run("own", own, (stage,)))
    (batch,) = training.data(stage, 0)
    assert batch.shape == (5, 3, 32, 32)
    reds = sorted(round(float((picture[0, 0, 0] + 1) / 2 * 255)) for picture in batch[:4])
    assert reds == [0, 60, 120, 180]
    assert train(Run("own", own, (stage,)), tmp_path / "run", CPU).model is not None


def test_an_encoder_learns_from_pictures_with_captions(tmp_path) -> None:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a red square")
    encoder = replace(tiny.VISION_ENCODER, pooling_head=True)
    c = ContrastiveTraining(
        encoder, 1, 2, 32, text_tokenizer="emoji", data={"data": DataConfig(str(tmp_path), held_out=0)}
    )
    stage = Stage("all", 1, 1e-3, {"data": 2})
    (batch,) = make_training(Run("own", c, (stage,))).data(stage, 0)
    text = find_text_tokenizer("emoji")
    assert text.decode(batch.text_ids[0].tolist()) == "a red square" and batch.belongs.all()


def test_data_that_an_eye_cannot_use_is_one_clear_line(tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "no picture"}')
    for number_of_colours, what in ((0, "holds no example that can be used"), (4, "cannot give recoloured pictures")):
        data = {"data": DataConfig(str(tmp_path))}
        own = replace(NOTHING, num_colours=number_of_colours, colour_width=2, data=data)
        stage = Stage("all", 1, 1e-3, {"data": 2})
        with pytest.raises(ValueError, match=what):
            make_training(Run("own", own, (stage,))).data(stage, 0)
    janus = JanusTraining("", data={"data": DataConfig(str(tmp_path), use="pictures")})
    with pytest.raises(ValueError, match=r"data\.data\.use is pictures, which is for eyes"):
        make_training(Run("janus", janus, (Stage("all", 1, 1e-3, {"data": 1}),)))
