"""A third modality: its eye is a row that a program adds to the table, its signals are parts of a user's message."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from openjanus import config as configs
from openjanus.data.sources import SOURCES, find_text_tokenizer
from openjanus.inference.engine import Engine
from openjanus.inference.sampling import SamplingOptions
from openjanus.model.janus import SIGNAL, Janus, JanusConfig
from openjanus.model.tower_eye import TowerEyeConfig
from openjanus.processing.message import Message
from openjanus.runtime import Runtime
from openjanus.sequence import Kind, SignalSpan, TextSpan, UnderstandSpan, collate, pack
from openjanus.starting.start import StartConfig, starting_point
from openjanus.testing import tiny_checkpoint
from openjanus.training.janus import JanusTraining
from openjanus.training.run import Run, restore, train
from openjanus.training.stage import Stage
from openjanus.weights import checkpoint
from tests import tiny
from tests.toys.level_eye import NUM_LEVELS, LevelEye, LevelEyeConfig

CPU = Runtime(torch.device("cpu"), "float32", "test")
WITH_SIGNAL = replace(tiny.CONFIG, signal=LevelEyeConfig())
T, U, S = Kind.TEXT, Kind.UNDERSTAND, Kind.SIGNAL


@pytest.fixture(autouse=True)
def added(monkeypatch) -> None:
    monkeypatch.setitem(SIGNAL, LevelEyeConfig, LevelEye)


def signal(seed: int = 0, num_positions: int = 2) -> SignalSpan:
    return SignalSpan(torch.randn(NUM_LEVELS, generator=torch.Generator().manual_seed(seed)), num_positions)


def levels(split: str, seed: int):
    """A source of one question about signals."""
    return lambda index: [Message("user", [signal(index), "what is it?"]), Message("assistant", "a cat")]


def test_signals_and_pictures_of_packed_documents_keep_their_places() -> None:
    one = [TextSpan([1]), signal(1), tiny.picture_span(), TextSpan([5])]
    other = [signal(2), TextSpan([6], loss=True), signal(3)]
    batch = pack([one, other], 16)
    assert batch.kind[0].tolist() == [T, S, S, U, U, U, U, T, S, S, T, S, S, 0, 0, 0]
    assert batch.signals.tolist() == [signal(i).values.tolist() for i in (1, 2, 3)]
    assert batch.places[S].tolist() == [1, 2, 8, 9, 11, 12]
    assert batch.target.tolist()[0][8:11] == [0, 6, 0] and batch.target_kind[0, 9] == T  # a signal may predict
    assert batch.to("meta").signals.device.type == "meta"
    with torch.no_grad():
        model = tiny.janus(WITH_SIGNAL)
        x = model.embed(batch)
        torch.testing.assert_close(x[0, 11:13], model.signal(signal(3).values[None])[0])


def test_a_signal_has_a_line_of_its_own_without_marks() -> None:
    processor, given = tiny.processor(), signal()
    document = processor.prompt([Message("user", ["which of", given, "is it?"])])
    before, kept, after = document
    assert kept is given
    assert processor.text.decode(before.ids[1:]) == "User: which of\n"
    assert processor.text.decode(after.ids) == "\nis it?\n\nAssistant:"
    picture = Image.new("RGB", (16, 16))
    both = processor.prompt([Message("user", [picture, given, "and <image_placeholder>?"])])
    assert [type(span) for span in both] == [TextSpan, UnderstandSpan, TextSpan, SignalSpan, TextSpan]


def test_guidance_drops_signals_with_the_pictures() -> None:
    processor = tiny.processor()
    document = processor.prompt([Message("user", [signal(), "a cat"])], draw=True)
    assert processor.drop(document, words=True)[1] is document[1]
    assert processor.drop(document, pictures=True)[1] == TextSpan([processor.text.pad_id] * 2)


@pytest.mark.parametrize("role", ["system", "assistant", "text"])
def test_only_a_user_gives_signals(role) -> None:
    with pytest.raises(ValueError, match=rf"{role} message holds"):
        Message(role, [signal()])


@pytest.mark.parametrize(
    ("config", "document", "words"),
    [
        (tiny.CONFIG, [signal()], "1 signals, but the model has no signal eye"),
        (WITH_SIGNAL, [signal(num_positions=3)], "1 signals of 2 positions each, but 3 positions for them"),
    ],
    ids=["no eye", "wrong length"],
)
def test_signals_that_do_not_fit_the_model_are_told(config, document, words) -> None:
    with pytest.raises(ValueError, match=words):
        tiny.janus(config).embed(pack([document], 8))


def test_the_table_is_read_when_a_config_is_built(monkeypatch) -> None:
    data = configs.to_dict(WITH_SIGNAL)
    assert data["signal"] == {"type": "LevelEyeConfig"} and configs.to_dict(tiny.CONFIG)["signal"] is None
    assert configs.from_dict(JanusConfig, data) == WITH_SIGNAL
    monkeypatch.delitem(SIGNAL, LevelEyeConfig)
    unknown = r"signal: unknown type 'LevelEyeConfig'.*; a class of your own must be imported before"
    with pytest.raises(ValueError, match=unknown):
        configs.from_dict(JanusConfig, data)


@pytest.mark.parametrize("form", ["official", "transformers"])
def test_foreign_formats_have_no_place_for_a_signal_eye(form, tmp_path) -> None:
    start = checkpoint.load(tiny_checkpoint(tmp_path / "model"))
    config = replace(start.model.config, signal=LevelEyeConfig())
    with pytest.raises(ValueError, match="SigLIPEyeConfig and VQEyeConfig and LevelEyeConfig: use openjanus's own"):
        checkpoint.save(replace(start, model=Janus(config)), tmp_path / "other", form=form)


@pytest.mark.parametrize("weights", ["float32", "int8"])
@torch.inference_mode(False)
def test_a_janus_with_a_signal_eye_trains_is_stored_and_answers(weights, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(SOURCES, "levels", (levels, "conversations"))
    checkpoint.save(tiny.checkpoint(), tmp_path / "start")
    start, changes = str(tmp_path / "start"), ('model.signal={"type": "LevelEyeConfig"}',)
    task = JanusTraining(start, "", row_tokens=128, changes=changes)
    stage = Stage("all", 2, 1e-3, {"levels": 2, "emoji.drawings": 1})
    train(Run("levels", task, (stage,)), tmp_path / "run", CPU)
    trained = restore(tmp_path / "run")
    assert trained.model.signal.linear.bias.abs().sum() > 0  # which began as zeros
    checkpoint.save(trained, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model"]["signal"] == {"type": "LevelEyeConfig"}
    engine = Engine(checkpoint.load(tmp_path / "model"))
    assert all(torch.equal(t, trained.model.state_dict()[name]) for name, t in engine.model.state_dict().items())
    if weights == "int8":
        from openjanus import load

        engine = load(tmp_path / "model", "cpu", weights)
    question = [Message("user", [signal(7), "what is it?"])]
    with torch.inference_mode():
        said, document = [], engine.processor.prompt(question)
        while len(said) < 6 and engine.processor.text.eos_id not in said:
            batch = collate([[*document, *([TextSpan(said)] if said else [])]])
            said.append(int(engine._text_logits(engine.model(batch)[:, -1]).argmax()))
    request = engine.answer(question, SamplingOptions(temperature=0.0), 6)
    scheduler = engine.scheduler(1, 100)
    scheduler.submit(request)
    scheduler.run()
    if weights == "float32":
        assert request.text_ids == said
    others = engine.answers([[Message("user", [signal(i), "what is it?"])] for i in (7, 8)], max_new_tokens=6)
    assert others[0] == engine.answers([question], max_new_tokens=6)[0]
    drawn = engine.generate([[Message("user", [signal(7), "a cat"])]], seed=1)[0]
    assert drawn.size == (16, 16)


class Forgetful(LevelEye):
    def __init__(self, c: LevelEyeConfig, width: int):
        super().__init__(c, width)
        self.register_buffer("scale", torch.ones(2), persistent=False)


def test_a_buffer_that_is_not_stored_is_named_at_load(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(SIGNAL, LevelEyeConfig, Forgetful)
    checkpoint.save(tiny.checkpoint(WITH_SIGNAL), tmp_path / "model")
    with pytest.raises(ValueError, match=r"signal\.scale is a buffer that no checkpoint stores: register it as pers"):
        checkpoint.load(tmp_path / "model")


def test_a_replaced_eye_starts_afresh_and_the_rest_is_kept(tmp_path) -> None:
    checkpoint.save(tiny.checkpoint(), tmp_path / "start")
    tower = {
        "type": "TowerEyeConfig",
        "encoder": {
            "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "image_size": 16, "patch_size": 4,
        },
    }  # fmt: skip
    changes = (f"model.understanding={json.dumps(tower)}", 'model.signal={"type": "LevelEyeConfig"}')
    begun = starting_point(StartConfig(str(tmp_path / "start"), changes=changes), find_text_tokenizer)
    before = checkpoint.load(tmp_path / "start").model.state_dict()
    assert isinstance(begun.model.config.understanding, TowerEyeConfig) and begun.processor.num_features == 16
    kept = {name: t for name, t in begun.model.state_dict().items() if not name.startswith(("understanding", "signal"))}
    assert kept and all(torch.equal(tensor, before[name]) for name, tensor in kept.items())
    with pytest.raises(ValueError, match=r"start .*generation"):
        wrong = ("model.generation.tokenizer.num_ids=24",)
        starting_point(StartConfig(str(tmp_path / "start"), changes=wrong), find_text_tokenizer)
