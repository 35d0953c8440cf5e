"""Official and transformers folders: what is damaged, foreign or dangerous ends in one clear line."""

import json
import os
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from openjanus.cli import main
from openjanus.model.siglip_eye import SigLIPEyeConfig
from openjanus.processing.image import PixelConfig
from openjanus.processing.processor import Message, ProcessorConfig
from openjanus.testing import TINY, tiny_checkpoint, tiny_janus
from openjanus.weights import checkpoint, names, tensors
from openjanus.weights.config import Checkpoint
from openjanus.weights.official import SYSTEM_PROMPT
from tests import tiny

FORMS = tuple(checkpoint.FORMATS)


@pytest.fixture(params=FORMS)
def form(request) -> str:
    return request.param


@pytest.fixture
def folder(form, tmp_path) -> Path:
    return tiny_checkpoint(tmp_path / "model", form)


def edit(path: Path, change) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def refuse(folder: Path, *words: str) -> None:
    with pytest.raises(ValueError) as error:
        checkpoint.load(folder)
    for word in words:
        assert word in str(error.value)


def test_every_format_gives_the_same_model_back(folder, form) -> None:
    assert checkpoint.detect_format(folder) == form
    again = checkpoint.load(folder)
    assert again.model.config == TINY
    assert tiny.equal_trees(again.model.state_dict(), tiny_janus().state_dict())
    assert again.processor.config.template == "deepseek"
    assert again.processor.config.system_prompt == ("" if form == "transformers" else SYSTEM_PROMPT)
    ids = again.processor.text
    assert ids.special_id("<|User|>") in again.processor.prompt([Message("user", ["hello"])], draw=True)[0].ids


@pytest.mark.parametrize("form", ["official", "transformers"])
def test_a_system_prompt_that_a_format_cannot_keep_is_told(form, tmp_path) -> None:
    start = tiny_checkpoint(tmp_path / "start", "openjanus")
    for prompt, is_kept in (("Be brief.", False), (SYSTEM_PROMPT, True), ("", form == "transformers")):
        model = checkpoint.load(start)
        model.processor.config = replace(model.processor.config, system_prompt=prompt)
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            checkpoint.save(model, tmp_path / "model", form=form)
        told = [str(warning.message) for warning in given]
        assert is_kept != any(f"cannot store the system prompt {prompt!r}" in line for line in told), told
        again = checkpoint.load(tmp_path / "model").processor.config.system_prompt
        assert (again == prompt) == is_kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_names_differ_and_dtypes_stay(form, dtype, tmp_path) -> None:
    """No two parameters get the same name, and `dtype=None` keeps what is stored."""
    theirs = [name for ours in tiny_janus().state_dict() for name in checkpoint.FORMATS[form].names(ours)]
    assert len(theirs) == len(set(theirs))
    stored = checkpoint.load(tiny_checkpoint(tmp_path / "model", form, dtype=dtype), dtype=None)
    assert {t.dtype for t in stored.model.state_dict().values()} == {dtype}


def test_float16_keeps_the_image_tokenizer_in_float32(folder) -> None:
    model = checkpoint.load(folder, dtype=torch.float16).model
    assert {p.dtype for p in model.generation.tokenizer.parameters()} == {torch.float32}
    assert {p.dtype for p in model.language_model.parameters()} == {torch.float16}


def test_shards_are_read_and_a_missing_one_is_named(folder, form, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tensors, "SHARD_SIZE", "300KB")
    checkpoint.save(checkpoint.load(folder), tmp_path / "shards", form=form)
    shards = sorted((tmp_path / "shards").glob("model-*.safetensors"))
    assert len(shards) > 2 and not (tmp_path / "shards" / "model.safetensors").exists()
    again = checkpoint.load(tmp_path / "shards").model.state_dict()
    assert tiny.equal_trees(again, tiny_janus().state_dict())
    shards[1].unlink()
    refuse(tmp_path / "shards", shards[1].name, "missing")


def test_saving_again_leaves_no_stale_shards(tmp_path, monkeypatch) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    (folder / "README.md").write_text("a model card")
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "SHARD_SIZE", "300KB")
        checkpoint.save(checkpoint.load(folder), folder)
    assert not (folder / "model.safetensors").exists()
    checkpoint.save(checkpoint.load(folder), folder)
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_a_file_is_let_go_now_and_then_and_all_of_it_is_read(folder, monkeypatch) -> None:
    opened = []
    original = tensors.TensorFiles._open
    monkeypatch.setattr(tensors.TensorFiles, "_open", lambda self, name: opened.append(name) or original(self, name))
    monkeypatch.setattr(tensors, "GROUP_BYTES", 100_000)
    assert tiny.equal_trees(checkpoint.load(folder).model.state_dict(), tiny_janus().state_dict())
    assert len(opened) > 5


def to_bin(folder: Path, zipped: bool = True) -> None:
    state = load_file(folder / "model.safetensors")
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_tensors_are_read(zipped, tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "official")
    to_bin(folder, zipped)
    assert tiny.equal_trees(checkpoint.load(folder).model.state_dict(), tiny_janus().state_dict())


class Bomb:
    def __reduce__(self):
        return os.system, ("touch BOOM",)


def test_a_pickle_that_holds_code_is_refused_and_not_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tiny_checkpoint(tmp_path / "model", "official")
    (folder / "model.safetensors").unlink()
    for zipped in (True, False):
        torch.save({"x": Bomb()}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        refuse(folder, "pytorch_model.bin", "more than tensors")
    torch.save([torch.zeros(2)], folder / "pytorch_model.bin")
    refuse(folder, "expected a mapping of names to tensors")
    assert not (tmp_path / "BOOM").exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights_are_refused(folder, share) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refuse(folder, "model.safetensors", "damaged or not safetensors")


def test_missing_extra_and_misshaped_tensors_are_named(folder, form) -> None:
    path = folder / "model.safetensors"
    (norm,) = checkpoint.FORMATS[form].names("language_model.norm.weight")
    good = load_file(path)
    for change, words in (
        ({k: v for k, v in good.items() if k != norm}, f"missing {norm}"),
        ({**good, "surprise": torch.zeros(1)}, "unknown surprise"),
        ({**good, norm: torch.zeros(7)}, f"{norm} has shape [7], expected [64]"),
    ):
        save_file(change, path)
        refuse(folder, words)


def test_dropped_tensors_are_on_a_list_and_only_there(tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "official")
    good = load_file(folder / "model.safetensors")
    for name in ("vision_model.vision_tower.attn_pool.q.weight", "gen_vision_model.quantize.codebook_used"):
        save_file({**good, name: torch.zeros(1)}, folder / "model.safetensors")
        checkpoint.load(folder)
    save_file({**good, "vision_model.vision_tower.attn_pool2.q.weight": torch.zeros(1)}, folder / "model.safetensors")
    refuse(folder, "unknown vision_model.vision_tower.attn_pool2.q.weight")


OFFICIAL_CHANGES = {
    "activation": (lambda c: c["language_config"].update(hidden_act="gelu"), ("hidden_act", "'silu'")),
    "rope": (lambda c: c["language_config"].update(rope_scaling={"factor": 2}), ("rope_scaling",)),
    "bias": (lambda c: c["language_config"].update(attention_bias=True), ("attention_bias",)),
    "unknown key": (
        lambda c: c["language_config"].update(hidden_sise=4),
        ("'language_config.hidden_sise'", "'hidden_size'"),
    ),
    "projector": (lambda c: c["aligner_config"]["params"].update(projector_type="identity"), ("projector_type",)),
    "depth": (lambda c: c["gen_aligner_config"]["params"].update(depth=3), ("depth", "3")),
    "tower": (lambda c: c["vision_config"]["params"].update(model_name="clip"), ("model_name", "siglip_large")),
    "layer": (lambda c: c["vision_config"]["params"].update(select_layer=-2), ("select_layer", "-2")),
    "tokenizer": (lambda c: c["gen_vision_config"].update(cls="VQ-8"), ("VQ-8", "VQ-16")),
    "width": (lambda c: c["aligner_config"]["params"].update(n_embed=32), ("n_embed", "32")),
    "type": (lambda c: c["language_config"].update(num_hidden_layers="2"), ("num_hidden_layers", "expected int")),
    "nothing": (
        lambda c: c["language_config"].update(num_attention_heads=0),
        ("num_attention_heads is 0", "1 or more"),
    ),
    "levels": (
        lambda c: c["gen_vision_config"]["params"].update(ch_mult=["1"]),
        ("gen_vision_config.params.ch_mult is ['1']", "whole numbers"),
    ),
    "section": (lambda c: c.pop("gen_head_config"), ("gen_head_config is missing",)),
    "new section": (lambda c: c.update(audio_config={}), ("audio_config",)),
    "model": (lambda c: c.update(model_type="llava"), ("model_type 'llava'", "Janus-1.3B")),
}


@pytest.mark.parametrize("change", OFFICIAL_CHANGES)
def test_an_official_config_that_cannot_be_honoured_is_refused(change, tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "official")
    make, words = OFFICIAL_CHANGES[change]
    edit(folder / "config.json", make)
    refuse(folder, *words)


TRANSFORMERS_CHANGES = {
    "qk norm": (lambda c: c["vision_config"].update(use_qk_norm=True), ("use_qk_norm",)),
    "activation": (lambda c: c["vq_config"].update(hidden_act="relu"), ("hidden_act",)),
    "latent": (lambda c: c["vq_config"].update(double_latent=True), ("double_latent",)),
    "rope": (
        lambda c: c["text_config"].update(rope_parameters={"rope_type": "yarn", "rope_theta": 1.0}),
        ("rope_type", "yarn"),
    ),
    "patches": (lambda c: c["vision_config"].update(patch_size=32, num_image_tokens=4), ("patches",)),
    "unknown key": (lambda c: c["vision_config"].update(windowed=True), ("'vision_config.windowed'",)),
}


@pytest.mark.parametrize("change", TRANSFORMERS_CHANGES)
def test_a_transformers_config_that_cannot_be_honoured_is_refused(change, tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "transformers")
    make, words = TRANSFORMERS_CHANGES[change]
    edit(folder / "config.json", make)
    refuse(folder, *words)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("processor_config.json", {"sft_format": "llama2"}, ("sft_format", "llama2")),
        ("processor_config.json", {"add_special_token": True}, ("add_special_token",)),
        ("processor_config.json", {"num_image_tokens": 9}, ("num_image_tokens", "9", "16")),
        ("preprocessor_config.json", {"rescale_factor": 1.0}, ("rescale_factor",)),
        ("preprocessor_config.json", {"resample": 0}, ("resample",)),
        ("preprocessor_config.json", {"image_mean": [0.5]}, ("image_mean is [0.5]", "three numbers")),
        ("preprocessor_config.json", {"image_size": 32}, ("image_size", "32")),
    ],
)
def test_a_processor_config_that_cannot_be_honoured_is_refused(file, change, words, tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "official")
    edit(folder / file, lambda data: data.update(change))
    refuse(folder, *words)


def test_a_config_that_is_not_json_is_refused(folder) -> None:
    (folder / "config.json").write_text("{")
    refuse(folder, "config.json", "not JSON")


def test_normalisation_switched_off_by_mistake_is_mended_with_a_warning(tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "official", "deepseek_old")
    edit(folder / "preprocessor_config.json", lambda c: c.update(do_normalize=False))
    with pytest.warns(UserWarning, match="do_normalize is false"):
        pixels = checkpoint.load(folder).processor.config.pixels
    assert pixels.mean == pixels.std == (0.5, 0.5, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = checkpoint.load(folder, as_configured=True).processor.config.pixels
    assert (pixels.mean, pixels.std) == ((0.0,) * 3, (1.0,) * 3)
    assert pixels.background == (127, 127, 127)


def test_a_template_whose_tokens_are_missing_gives_way_to_the_words(tmp_path) -> None:
    """transformers' converter writes <|User|> into the template of Janus-1.3B, whose tokenizer does not know it."""
    folder = tiny_checkpoint(tmp_path / "model", "transformers", "deepseek_old")
    (folder / "chat_template.jinja").write_text("<|User|>: ...")
    with pytest.warns(UserWarning, match=r"<\|User\|>"):
        assert checkpoint.load(folder).processor.config.template == "deepseek_old"


@pytest.mark.parametrize("change", ["named deepseek", "no name", "no file"])
def test_an_official_template_whose_tokens_are_missing_gives_way_to_the_words(change, tmp_path) -> None:
    """`deepseek` named the words User and Assistant until Janus-Pro came."""
    folder = tiny_checkpoint(tmp_path / "model", "official", "deepseek_old")
    if change == "named deepseek":
        edit(folder / "processor_config.json", lambda c: c.update(sft_format="deepseek"))
    elif change == "no name":
        edit(folder / "processor_config.json", lambda c: c.pop("sft_format"))
    else:
        (folder / "processor_config.json").unlink()
    with pytest.warns(UserWarning, match="tokens that its tokenizer lacks"):
        processor = checkpoint.load(folder).processor
    (span,) = processor.prompt([Message("user", ["hello"])], draw=True)
    assert processor.text.tokenizer.decode(span.ids[1:-1]) == "User: hello\n\nAssistant:"


def test_an_official_template_whose_tokens_are_there_is_followed(tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "official", "deepseek")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.load(folder).processor.config.template == "deepseek"


def test_llama_defaults_fill_what_an_official_config_leaves_out(tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "official")
    edit(folder / "config.json", lambda c: [c["language_config"].pop(k) for k in ("rms_norm_eps", "rope_theta")])
    assert checkpoint.load(folder).model.config == TINY


def test_a_model_with_parts_of_its_own_stays_in_our_format(tmp_path) -> None:
    ours = tiny.checkpoint()  # a stem of 2 pixels, 4 groups
    for form in ("official", "transformers"):
        with pytest.raises(ValueError) as error:
            checkpoint.save(ours, tmp_path / form, form=form)
        for word in (
            f"the {form} format",
            "tokenizer.stem_px=2",
            "num_groups=4",
            "use openjanus's own format",
        ):
            assert word in str(error.value)
        assert not (tmp_path / form).exists() and not list(tmp_path.glob(".*"))


def test_a_body_with_qk_norm_goes_to_transformers_and_comes_back(tmp_path) -> None:
    config = replace(TINY, language_model=replace(TINY.language_model, qk_norm=True))
    ours = Checkpoint(tiny_janus(0, config), tiny.processor(ProcessorConfig(PixelConfig(64)), 16), {})
    checkpoint.save(ours, tmp_path / "transformers", form="transformers")
    again = checkpoint.load(tmp_path / "transformers").model
    assert again.config == config and tiny.equal_trees(again.state_dict(), ours.model.state_dict())
    with pytest.raises(ValueError, match=r"cannot express language_model\.qk_norm .*--format transformers"):
        checkpoint.save(ours, tmp_path / "official", form="official")
    edit(tmp_path / "transformers" / "config.json", lambda c: c["text_config"].update(num_experts=4))
    refuse(tmp_path / "transformers", "text_config.num_experts is 4", "supports 0 only")


def test_biases_of_the_body_have_no_place_in_foreign_formats(tmp_path) -> None:
    config = replace(TINY, language_model=replace(TINY.language_model, qkv_bias=True))
    ours = Checkpoint(tiny_janus(0, config), tiny.processor(ProcessorConfig(PixelConfig(64)), 16), {})
    for form in ("official", "transformers"):
        with pytest.raises(ValueError, match=r"cannot express language_model\.qkv_bias .*--format openjanus"):
            checkpoint.save(ours, tmp_path / form, form=form)


def test_eyes_of_different_sizes_have_no_place_in_foreign_formats(tmp_path) -> None:
    larger = tiny.with_tokenizer(TINY, image_size_px=128)
    ours = Checkpoint(tiny_janus(0, larger), tiny.processor(ProcessorConfig(PixelConfig(64)), 16), {})
    for form in ("official", "transformers"):
        with pytest.raises(ValueError, match=r"generation\.tokenizer\.image_size_px=128 beside 64"):
            checkpoint.save(ours, tmp_path / form, form=form)


def test_the_error_for_the_bundled_model_names_the_fields_and_what_to_use(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["convert", "nano", str(tmp_path / "new"), "--format", "transformers"])
    error = capsys.readouterr().err
    for word in ("stem_px=2", "num_groups=16", "local_encoder=True", "processor.pictures_first", "--format openjanus"):
        assert word in " ".join(error.split())
    assert "qk_norm" not in error and not (tmp_path / "new").exists()


def test_a_part_without_a_name_is_an_error() -> None:
    for translate in (names.official_names, names.transformers_names):
        with pytest.raises(ValueError, match=r"pooling_head\.latent has no name"):
            translate("understanding.encoder.pooling_head.latent")
    assert names.official_names("understanding.encoder.position") == ("vision_model.vision_tower.pos_embed",)


def test_the_official_sizes_need_no_keys_of_ours(tmp_path) -> None:
    """The config that we write for Janus-1.3B holds the official keys alone."""
    from openjanus.model.janus import JanusConfig
    from openjanus.processing.processor import ProcessorConfig
    from openjanus.weights.config import CheckpointConfig
    from openjanus.weights.official import write_config

    config = CheckpointConfig(JanusConfig(), ProcessorConfig(system_prompt=SYSTEM_PROMPT))
    assert config.model.understanding == SigLIPEyeConfig()
    write_config(config, tiny.text_tokenizer(), tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert set(written["vision_config"]["params"]) == {"image_size", "model_name", "select_feature", "select_layer"}
    assert set(written["gen_vision_config"]["params"]) == {"image_token_size", "n_embed"}
    assert written["gen_head_config"]["params"] == {
        "image_token_embed": 2048,
        "image_token_size": 16384,
        "n_embed": 2048,
    }
