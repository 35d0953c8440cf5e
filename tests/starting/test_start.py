"""Where first weights come from: a Janus, or parts of other people's weights; each mistake is one clear line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import SiglipConfig, SiglipModel, SiglipTextConfig, SiglipVisionConfig, SiglipVisionModel

import openjanus
from openjanus import config as configs
from openjanus.data.sources import find_text_tokenizer
from openjanus.eyes.contrastive import ContrastiveTraining
from openjanus.eyes.tokenizer import TokenizerTraining
from openjanus.inference.engine import Engine
from openjanus.inference.sampling import SamplingOptions
from openjanus.model.image_tokenizer import ImageTokenizer
from openjanus.model.vision_encoder import VisionEncoder
from openjanus.processing.message import Message
from openjanus.recipes.evaluators import keep_result
from openjanus.recipes.tokenizing import tokenize_source
from openjanus.runtime import Runtime
from openjanus.sequence import GenerateSpan, Kind, TextSpan, collate, pack
from openjanus.starting.start import StartConfig, starting_image_tokenizer, starting_point
from openjanus.testing import TINY, tiny_checkpoint
from openjanus.training.janus import JanusTraining, starting_tokenizer
from openjanus.training.run import Run, restore, train
from openjanus.training.stage import Stage
from openjanus.weights import checkpoint
from openjanus.weights.config import Checkpoint
from openjanus.weights.names import llamagen_names
from tests.families import FAMILIES, NO_BOS, language_model
from tests.tiny import shake

CPU = Runtime(torch.device("cpu"), "float32", "test")
TOKENIZER = TINY.generation.tokenizer
STAGE = Stage("tune", 1, 1e-3, {"emoji.questions": 1, "emoji.drawings": 2})
VISION = SiglipVisionConfig(
    hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, image_size=64, patch_size=16
)


def llamagen_file(path: Path, config=TOKENIZER) -> ImageTokenizer:
    torch.manual_seed(5)
    tokenizer = shake(ImageTokenizer(config)).eval()
    state = {llamagen_names(name)[0]: tensor for name, tensor in tokenizer.state_dict().items()}
    torch.save({"model": state | {"quantize.codebook_used": torch.zeros(9)}, "steps": 7}, path)
    return tokenizer


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A folder with a source of each kind."""
    folder = tmp_path_factory.mktemp("sources")
    torch.manual_seed(3)
    text = SiglipTextConfig(
        vocab_size=50, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    whole = SiglipModel(SiglipConfig(text_config=text.to_dict(), vision_config=VISION.to_dict()))
    shake(whole).save_pretrained(folder / "siglip")
    preprocessor = {"image_mean": [0.5, 0.5, 0.4], "image_std": [0.5, 0.5, 0.6], "resample": 2, "size": {"height": 64}}
    (folder / "siglip" / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    shake(SiglipVisionModel(VISION)).save_pretrained(folder / "siglip_vision")
    llamagen_file(folder / "vq.pt")
    for family in FAMILIES:
        language_model(family, folder / family)
    tiny_checkpoint(folder / "pro", "official", "deepseek")
    return folder


@pytest.fixture
def table(sources) -> dict[str, str]:
    return {
        "language_model": str(sources / "llama-2"),
        "understanding.encoder": str(sources / "siglip"),
        "generation.tokenizer": str(sources / "vq.pt"),
    }


def begin(start, changes=(), **wanted) -> Checkpoint:
    torch.manual_seed(0)
    return starting_point(StartConfig(start, changes=tuple(changes), **wanted), find_text_tokenizer)


@pytest.mark.parametrize("published", ["siglip", "siglip_vision"])
@torch.no_grad()
def test_siglip_gives_the_features_of_transformers(published, sources, table) -> None:
    theirs = SiglipVisionModel.from_pretrained(sources / published).eval()
    ours = begin(table | {"understanding.encoder": str(sources / published)}).model.understanding.encoder
    assert isinstance(ours, VisionEncoder) and ours.config.tanh_gelu
    pixels = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(pixels), theirs(pixels).last_hidden_state, rtol=1e-4, atol=1e-4)


def test_an_encoder_brings_its_pixel_settings(table, sources) -> None:
    pixels = begin(table).processor.config.pixels
    assert (pixels.size_px, pixels.mean, pixels.std) == (64, (0.5, 0.5, 0.4), (0.5, 0.5, 0.6))
    plain = begin(table | {"understanding.encoder": str(sources / "siglip_vision")}).processor.config.pixels
    assert plain.mean == plain.std == (0.5,) * 3
    assert begin(table, changes=["processor.pixels.mean=[0.1, 0.2, 0.3]"]).processor.config.pixels.mean == (
        0.1,
        0.2,
        0.3,
    )


@torch.no_grad()
def test_llamagens_file_gives_the_same_ids_and_pictures(table, tmp_path) -> None:
    theirs = llamagen_file(tmp_path / "vq.pt")
    model = begin(table | {"generation.tokenizer": str(tmp_path / "vq.pt")}).model
    ours = model.generation.tokenizer
    assert ours.config == TOKENIZER  # the sizes of the tensors, and the picture's size of the encoder
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    ids = theirs.encode(pixels)
    assert torch.equal(ours.encode(pixels), ids) and torch.equal(ours.decode(ids), theirs.decode(ids))
    assert torch.equal(model.generation.embedding.weight, ours.codes())  # which the paper begins with


def test_parts_come_from_a_janus_too(sources) -> None:
    pro = checkpoint.load(sources / "pro")
    names = ("language_model", "understanding.encoder", "generation.tokenizer")
    begun = begin(dict.fromkeys(names, str(sources / "pro")))
    assert begun.model.config == pro.model.config
    assert begun.processor.config == pro.processor.config  # template, system prompt, pixels
    assert begun.processor.text.special_id("<|User|>") == pro.processor.text.special_id("<|User|>")
    before, after = pro.model.state_dict(), begun.model.state_dict()
    for name, tensor in before.items():
        taken = name.startswith(tuple(f"{part}." for part in names))
        assert torch.equal(after[name], tensor) == taken, name


def test_eyes_come_from_finished_runs(table, tmp_path) -> None:
    encoder = replace(TINY.understanding.encoder, pooling_head=True)
    tasks = {
        "encoder": ContrastiveTraining(encoder, 1, 2, 32, num_text_tokens=48, text_tokenizer="emoji"),
        "tokenizer": TokenizerTraining(TOKENIZER, perceptual_weight=0.0, discriminator_width=8),
    }
    for (name, task), source in zip(tasks.items(), ("emoji.captions", "emoji.pictures"), strict=True):
        train(Run(name, task, (Stage("s", 1, 1e-3, {source: 2}),)), tmp_path / name, CPU)
    eyes = {"understanding.encoder": str(tmp_path / "encoder"), "generation.tokenizer": str(tmp_path / "tokenizer")}
    model = begin(table | eyes).model
    assert model.config.understanding.encoder == TINY.understanding.encoder
    for name, prefix, part in (
        ("encoder", "vision_encoder.", model.understanding.encoder),
        ("tokenizer", "tokenizer.", model.generation.tokenizer),
    ):
        stored = load_file(tmp_path / name / "checkpoints" / "00000001" / "model.safetensors")
        assert all(torch.equal(tensor, stored[prefix + key]) for key, tensor in part.state_dict().items())
    with pytest.raises(
        ValueError, match=r"start\.generation\.tokenizer .*a run of ContrastiveTraining, which gives no"
    ):
        begin(table | {"generation.tokenizer": str(tmp_path / "encoder")})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_draws_and_answers(family, table, sources, tmp_path) -> None:
    start = table | {"language_model": str(sources / family)}
    task = JanusTraining(start, "", row_tokens=512, drop_caption=0.5)
    run = Run("family", task, (replace(STAGE, mixture={**STAGE.mixture, "emoji.texts": 1}),))
    training = train(run, tmp_path / "run", CPU)
    begun = training.checkpoint.processor.text
    folder = keep_result(training, tmp_path / "run")
    kept = checkpoint.load(folder)
    assert kept.config.model.language_model.vocab_size == 448
    assert kept.processor.text.bos_id == begun.bos_id and (begun.bos_id is None) == (family in NO_BOS)
    for weights in ("float32", "int8"):
        engine = openjanus.load(folder, "cpu", weights)
        picture = engine.generate("two red apples", seed=1, guidance=3.0)[0]
        assert picture.size == (64, 64)
        answer = engine.ask(picture, "what is it?", max_new_tokens=5, temperature=0.0)
        assert isinstance(answer, str)
    equal_to_the_oracle(Engine(kept))


@torch.inference_mode()
def equal_to_the_oracle(engine: Engine, num_ids: int = 6) -> None:
    """The first greedy ids of a drawing and of an answer, against the whole sequence at every step, without a cache."""
    document = engine.processor.prompt([Message("user", ["two red apples"])], draw=True)
    pair, ids = (document, engine.processor.unconditional(document)), []
    heads, guidance = engine.model.heads, 3.0
    for _ in range(num_ids):
        one, other = (
            heads[Kind.GENERATE](engine.model(collate([[*given, GenerateSpan(ids)] if ids else given]))[:, -1])
            for given in pair
        )
        ids.append(int((other + guidance * (one - other)).argmax()))
    drawn = engine.generate_ids("two red apples", SamplingOptions(temperature=0.0, guidance=guidance))
    assert drawn[0, :num_ids].tolist() == ids


@pytest.mark.parametrize("family", NO_BOS)
def test_documents_without_a_first_token_are_packed_and_dropped_like_others(family, table, sources) -> None:
    processor = begin(table | {"language_model": str(sources / family)}).processor
    text = processor.text
    document = processor.document([Message("user", ["a cat"]), Message("assistant", ["a dog"])], train=True)
    assert document[0].ids[0] == text.encode("User: a cat")[0]
    batch = pack([document, document], 200)
    assert batch.num_targets() == 2 * len(document[-1].ids)
    prompt = processor.prompt([Message("user", ["a cat"])], draw=True)
    (span,) = processor.unconditional(prompt)
    assert isinstance(span, TextSpan) and set(span.ids[:-1]) == {text.pad_id}
    assert span.ids[-1] == text.begin_of_image_id and len(span.ids) == len(prompt[0].ids)


@pytest.mark.parametrize(("family", "forms"), [("qwen3", ["transformers"]), ("llama-3", ["official", "transformers"])])
def test_foreign_formats_keep_a_body_of_another_family(family, forms, table, sources, tmp_path) -> None:
    """Scaled rotary positions, norms of queries and keys, and documents that no token begins."""
    start = table | {"language_model": str(sources / family)}
    begun = begin(start, changes=["model.understanding.encoder.tanh_gelu=false"])
    for form in forms:
        checkpoint.save(begun, tmp_path / form, form=form)
        kept = checkpoint.load(tmp_path / form)
        assert kept.config.model == begun.config.model and kept.processor.text.bos_id == begun.processor.text.bos_id
    tanh = begin(start)
    checkpoint.save(tanh, tmp_path / "tanh", form="transformers")
    assert checkpoint.load(tmp_path / "tanh").config.model == tanh.config.model
    with pytest.raises(ValueError, match=r"cannot express .*understanding\.encoder\.tanh_gelu.*--format transformers"):
        checkpoint.save(tanh, tmp_path / "no", form="official")
    qwen = begin(table | {"language_model": str(sources / "qwen2.5")})
    with pytest.raises(ValueError, match=r"cannot express language_model\.qkv_bias of this model"):
        checkpoint.save(qwen, tmp_path / "no", form="transformers")


def test_a_training_from_a_janus_pro_keeps_template_vocabulary_and_system_prompt(sources, tmp_path) -> None:
    task = JanusTraining(str(sources / "pro"), str(tmp_path / "ids"), row_tokens=600)
    tokenize_source(starting_tokenizer(task), "emoji.drawings", 0, 2, tmp_path / "ids")
    tuned = checkpoint.load(keep_result(train(Run("tune", task, (STAGE,)), tmp_path / "run", CPU), tmp_path / "run"))
    before = checkpoint.load(sources / "pro")
    assert tuned.config == before.config
    assert tuned.processor.config.template == "deepseek" and tuned.processor.config.system_prompt
    assert tuned.processor.text.tokenizer.get_vocab() == before.processor.text.tokenizer.get_vocab()
    assert not torch.equal(tuned.model.language_model.norm.weight, before.model.language_model.norm.weight)


def test_a_run_from_parts_goes_on_and_is_restored_without_them(table, tmp_path) -> None:
    """Beside a run that was not interrupted; bit for bit."""
    task = JanusTraining(table, "", row_tokens=512)
    run = Run("parts", task, (replace(STAGE, num_steps=2),))
    whole = train(run, tmp_path / "whole", CPU).model.state_dict()
    train(run, tmp_path / "parts", CPU, stop_after=1)
    missing = {name: str(tmp_path / "gone" / name) for name in table}
    stored = (tmp_path / "parts" / "run.json").read_text()
    for name, source in table.items():
        stored = stored.replace(json.dumps(source), json.dumps(missing[name]))
    (tmp_path / "parts" / "run.json").write_text(stored)
    assert restore(tmp_path / "parts").processor.text.vocab_size < 448
    gone = replace(run, task=replace(task, start=missing))
    parts = train(gone, tmp_path / "parts", CPU).model.state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_what_a_table_leaves_out_begins_afresh(table) -> None:
    begun = begin({"text_tokenizer": "emoji", "generation.tokenizer": table["generation.tokenizer"]}, model=TINY)
    assert begun.model.config == TINY and begun.processor.config.pixels.size_px == 64
    assert begun.processor.text.vocab_size == 1024


def test_the_image_tokenizer_is_found_without_the_rest(table) -> None:
    found = starting_image_tokenizer(StartConfig(table), find_text_tokenizer)
    whole = begin(table).model.generation.tokenizer
    assert isinstance(found, nn.Module)
    assert all(torch.equal(t, whole.state_dict()[name]) for name, t in found.state_dict().items())
    with pytest.raises(
        ValueError, match=r"start names no generation\.tokenizer: a random one would give meaningless image ids"
    ):
        starting_image_tokenizer(StartConfig({"text_tokenizer": "emoji"}, model=TINY), find_text_tokenizer)


def test_changes_alter_what_the_parts_bring(table, sources) -> None:
    changes = ["model.language_model.max_positions=100", "processor.system_prompt=Be brief.", "sampling.guidance=2.0"]
    begun = begin(table, changes=changes[:2], sampling={"guidance": 3.0})
    assert begun.config.model.language_model.max_positions == 100
    assert begun.processor.config.system_prompt == "Be brief." and begun.sampling == {"guidance": 3.0}
    mistral = table | {"language_model": str(sources / "mistral")}
    with pytest.raises(ValueError, match=r"sliding_window is 512, but the body has max_positions 513"):
        begin(mistral, changes=["model.language_model.max_positions=513"])
    exact = begin(table, changes=["model.understanding.encoder.tanh_gelu=false"])  # as Janus computes
    assert not exact.model.config.understanding.encoder.tanh_gelu


WRONG = {
    "unknown part": ({"vision": "x"}, {}, r"start has no part 'vision'; known: language_model, understanding\.encoder"),
    "missing file": ({"generation.tokenizer": "gone.pt"}, {}, r"start\.generation\.tokenizer gone\.pt: no such file"),
    "missing run": ({"generation.tokenizer": "runs/gone"}, {}, r"runs/gone: no such run; train it first"),
    "missing folder": ({"language_model": "./gone"}, {}, r"'\./gone': no such folder"),
    "another encoder": ({"understanding.encoder": "LM"}, {}, r"'llama' cannot be understanding\.encoder, expected"),
    "another body": ({"language_model": "ENCODER"}, {}, r"type 'siglip' cannot be language_model, expected llama"),
    "a folder as tokenizer": ({"generation.tokenizer": "LM"}, {}, r"'llama' cannot be generation\.tokenizer, expected"),
    "two tokenizers": ({"text_tokenizer": "emoji"}, {}, "its language_model has its own: leave the text_toke"),
    "codebook": (
        {},
        {"model": replace(TINY, generation=replace(TINY.generation, tokenizer=replace(TOKENIZER, num_ids=48)))},
        r"num_ids is 96, but model\.generation\.tokenizer has 48: give the model the same, or name another source",
    ),
    "width": ({}, {"changes": ["model.language_model.width=32"]}, r"width is 64, but model\.language_model has 32"),
    "few rows": ({}, {"changes": ["model.language_model.vocab_size=100"]}, "is 448, but the body has only 100"),
    "misspelt change": ({}, {"changes": ["model.language_model.widht=32"]}, r"did you mean 'width'\?"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_told_in_one_clear_line(case, table, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    parts, wanted, message = WRONG[case]
    named = {"LM": table["language_model"], "ENCODER": table["understanding.encoder"]}
    start = table | {part: named.get(source, source) for part, source in parts.items()}
    if case == "codebook":
        start = {"text_tokenizer": "emoji", "generation.tokenizer": table["generation.tokenizer"]}
    with pytest.raises(ValueError, match=message) as error:
        begin(start, **wanted)
    assert "\n" not in str(error.value)


def test_damaged_files_of_a_tokenizer_are_named(table, tmp_path) -> None:
    path = tmp_path / "vq.pt"
    start = table | {"generation.tokenizer": str(path)}
    path.write_bytes(b"no pickle")
    with pytest.raises(ValueError, match=r"vq\.pt: damaged, or it holds more than tensors; not loaded"):
        begin(start)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match=r"vq\.pt: expected a mapping of names to tensors under 'model'"):
        begin(start)
    torch.save({"model": {"weight": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match=r"vq\.pt: no image tokenizer of LlamaGen \('quantize\.embedding\.weight'\)"):
        begin(start)
    llamagen_file(path)
    whole = torch.load(path, weights_only=True)
    del whole["model"]["decoder.conv_out.bias"]
    torch.save(whole, path)
    with pytest.raises(ValueError, match=r"start\.generation\.tokenizer: .*vq\.pt: missing decoder\.conv_out\.bias"):
        begin(start)


def test_siglip_of_variable_resolution_and_what_else_cannot_be_honoured_is_refused(table, sources, tmp_path) -> None:
    def refused(**config) -> str:
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError) as error:
            begin(table | {"understanding.encoder": str(tmp_path)})
        return str(error.value)

    assert "SigLIP 2 of variable resolution (NaFlex) is another encoder" in refused(model_type="siglip2")
    assert "hidden_act is 'relu'" in refused(model_type="siglip_vision_model", hidden_act="relu")
    assert "unknown key 'vision_config.num_patches'" in refused(model_type="siglip", vision_config={"num_patches": 256})
    assert "image_size_px is 100, expected a multiple" in refused(model_type="siglip_vision_model", image_size=100)


def test_a_start_is_stored_and_overridden_as_any_value() -> None:
    run = Run("r", JanusTraining({"language_model": "a"}, ""), (STAGE,))
    assert configs.from_dict(Run, configs.to_dict(run)) == run
    changed = configs.override(run, ["task.start.language_model=b"]).task
    assert isinstance(changed, JanusTraining) and changed.start == {"language_model": "b"}
    whole = configs.override(run, ["task.start=nano"]).task
    assert isinstance(whole, JanusTraining) and whole.start == "nano"
