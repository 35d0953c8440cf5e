"""Keys of foreign config files: those that tools write are accepted, unknown ones are all named at once, or ignored."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import openjanus
from openjanus.cli import main
from openjanus.testing import TINY, tiny_checkpoint
from openjanus.weights import checkpoint

# What to_dict() of transformers 4.x writes into a config and into each of its sections, beside the model's own keys.
DUMPED_BY_TRANSFORMERS_4 = {
    "_attn_implementation_autoset": True, "_name_or_path": "x", "add_cross_attention": False, "architectures": None,
    "bad_words_ids": None, "begin_suppress_tokens": None, "bos_token_id": 1, "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None, "decoder_start_token_id": None, "diversity_penalty": 0.0, "do_sample": False,
    "early_stopping": False, "encoder_no_repeat_ngram_size": 0, "eos_token_id": 2,
    "exponential_decay_length_penalty": None, "finetuning_task": None, "forced_bos_token_id": None,
    "forced_eos_token_id": None, "id2label": {"0": "LABEL_0"}, "is_decoder": False, "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0}, "length_penalty": 1.0, "max_length": 20, "min_length": 0, "no_repeat_ngram_size": 0,
    "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1, "output_attentions": False,
    "output_hidden_states": False, "output_scores": False, "pad_token_id": 0, "prefix": None, "problem_type": None,
    "pruned_heads": {}, "remove_invalid_values": False, "repetition_penalty": 1.0, "return_dict": True,
    "return_dict_in_generate": False, "sep_token_id": None, "suppress_tokens": None,
    "task_specific_params": {"text": {"max_length": 50}}, "temperature": 1.0, "tf_legacy_loss": False,
    "tie_encoder_decoder": False, "tokenizer_class": None, "top_k": 50, "top_p": 1.0, "torch_dtype": "bfloat16",
    "torchscript": False, "transformers_version": "4.57.1", "typical_p": 1.0, "use_bfloat16": False,
}  # fmt: skip
FOREIGN = ("official", "transformers")
FILES = ("config.json", "processor_config.json", "preprocessor_config.json")


@pytest.fixture(params=FOREIGN)
def folder(request, tmp_path) -> Path:
    return tiny_checkpoint(tmp_path / "model", request.param)


def edit(path: Path, change) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def sections(data: dict) -> list[dict]:
    """A config and the configs inside it; the official `params` are no config, but plain arguments."""
    return [data, *(value for value in data.values() if isinstance(value, dict))]


def test_a_dump_of_the_whole_config_is_read(folder) -> None:
    def dump(data: dict) -> None:
        for section in sections(data):
            section |= {**DUMPED_BY_TRANSFORMERS_4, **section}
            section.setdefault("tie_word_embeddings", section is not data.get("language_config"))

    edit(folder / "config.json", dump)
    assert checkpoint.load(folder).model.config == TINY


def test_a_dump_by_the_installed_transformers_is_read(tmp_path) -> None:
    from transformers import GenerationConfig, JanusConfig

    folder = tiny_checkpoint(tmp_path / "model", "transformers")
    generation = {**GenerationConfig._get_default_generation_params(), **GenerationConfig().to_dict()}

    def dump(data: dict) -> None:
        whole = JanusConfig(**data).to_dict()
        for section in sections(whole):
            section |= {**generation, **section}
        data.update(json.loads(json.dumps(whole, default=str)))

    edit(folder / "config.json", dump)
    assert checkpoint.load(folder).model.config == TINY


@pytest.mark.parametrize(
    ("key", "value"), [("add_cross_attention", True), ("pruned_heads", {"0": [1]}), ("cross_attention_hidden_size", 8)]
)
def test_a_dumped_value_that_would_change_the_model_is_refused(folder, key, value) -> None:
    edit(folder / "config.json", lambda c: c.update({key: value}))
    with pytest.raises(ValueError, match=f"{key} is .* openjanus supports"):
        checkpoint.load(folder)


def test_all_unknown_keys_and_values_of_all_files_are_named_at_once(folder) -> None:
    text = "language_config" if checkpoint.detect_format(folder) == "official" else "text_config"
    edit(folder / "config.json", lambda c: (c.update(outer=1), c[text].update(inner=2, hidden_sise=3, mlp_bias=True)))
    edit(folder / "processor_config.json", lambda c: c.update(stranger=4))
    with pytest.raises(ValueError) as error:
        checkpoint.load(folder)
    for word in (
        "'outer'",
        f"'{text}.inner'",
        f"'{text}.hidden_sise' (did you mean 'hidden_size'?)",
        f"{text}.mlp_bias is True",
        "processor_config.json",
        "'stranger'",
        "--ignore-config-keys",
        "ignore_config_keys",
    ):
        assert word in str(error.value)


def test_named_keys_are_ignored(folder, tmp_path) -> None:
    text = "language_config" if checkpoint.detect_format(folder) == "official" else "text_config"
    edit(folder / "config.json", lambda c: (c.update(outer=1), c[text].update(inner=2, attention_bias=True)))
    for name in FILES[1:]:
        edit(folder / name, lambda c: c.update(stranger=4))
    with pytest.raises(ValueError, match=f"'{text}.inner'"):
        checkpoint.load(folder, ignore_config_keys=("outer", "stranger", "attention_bias"))
    keys = ("outer", f"{text}.inner", "stranger", f"{text}.attention_bias")
    assert checkpoint.load(folder, ignore_config_keys=keys).model.config == TINY
    assert openjanus.load(folder, "cpu", ignore_config_keys=keys).model.config == TINY
    main(["convert", str(folder), str(tmp_path / "clean"), "--ignore-config-keys", *keys])
    assert checkpoint.load(tmp_path / "clean").model.config == TINY


def test_a_key_of_our_own_format_is_ignored_too(tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    edit(folder / "config.json", lambda c: (c["model"].update(stranger=1), c.update(stranger=1)))
    with pytest.raises(ValueError, match="stranger"):
        checkpoint.load(folder)
    assert checkpoint.load(folder, ignore_config_keys=("stranger",)).model.config == TINY


def test_the_depth_that_the_converter_of_transformers_writes_is_read(tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "transformers")
    edit(folder / "config.json", lambda c: c["vq_config"].update(depth=2))
    assert checkpoint.load(folder).model.config == TINY
    edit(folder / "config.json", lambda c: c["vq_config"].update(depth=3))
    with pytest.raises(ValueError, match=r"vq_config\.depth is 3"):
        checkpoint.load(folder)


@pytest.mark.parametrize(("top", "tied"), [(True, True), (None, True), (False, False)])
def test_the_top_level_decides_whether_a_head_that_is_not_stored_is_tied(top, tied, tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "transformers")
    stored = load_file(folder / "model.safetensors")
    del stored["lm_head.weight"]
    save_file(stored, folder / "model.safetensors")

    def change(c: dict) -> None:
        c["text_config"]["tie_word_embeddings"] = not tied
        c.pop("tie_word_embeddings")
        if top is not None:
            c["tie_word_embeddings"] = top

    edit(folder / "config.json", change)
    if tied:
        model = checkpoint.load(folder).model.language_model
        assert model.text_head.weight is model.embedding.weight
    else:
        with pytest.raises(ValueError, match=r"missing lm_head\.weight"):
            checkpoint.load(folder)
