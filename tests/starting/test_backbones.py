"""Plain language models as the body, against transformers at random weights; and what is refused, in one clear line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from openjanus.model.language_model import LanguageModel
from openjanus.model.rope_scaling import LinearRope, Llama3Rope
from openjanus.processing.text import BEGIN_OF_IMAGE, END_OF_IMAGE, IMAGE_PLACEHOLDER, PAD, TextStream
from openjanus.starting.backbones import Backbone, fill_body, read_backbone
from openjanus.weights.body import body_config, read_body
from openjanus.weights.fields import Fields
from tests.families import FAMILIES, language_model


def edit(folder: Path, name: str = "config.json", **changes) -> None:
    path = folder / name
    data = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value != "absent"}), encoding="utf-8")


def body_of(backbone: Backbone) -> LanguageModel:
    torch.manual_seed(1)
    body = LanguageModel(backbone.config).eval()
    fill_body(body, backbone)
    return body


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_hidden_states_and_logits_equal_those_of_transformers(family, tmp_path) -> None:
    theirs = language_model(family, tmp_path)
    backbone = read_backbone(tmp_path)
    ours = body_of(backbone)
    ids = torch.randint(0, backbone.num_known, (2, 300), generator=torch.Generator().manual_seed(0))
    wanted = theirs(ids, output_hidden_states=True)
    position = torch.arange(300).expand(2, -1)
    hidden = ours(ours.embedding(ids), position, torch.zeros_like(ids))
    torch.testing.assert_close(hidden, wanted.hidden_states[-1], rtol=1e-4, atol=1e-4)
    logits = ours.text_head(hidden)[..., : backbone.num_known]
    torch.testing.assert_close(logits, wanted.logits[..., : backbone.num_known], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama-3", "deepseek-llm"])
@torch.no_grad()
def test_cached_positions_are_scaled_as_uncached_ones(family, tmp_path) -> None:
    language_model(family, tmp_path)
    backbone = read_backbone(tmp_path)
    assert isinstance(backbone.config.rope_scaling, Llama3Rope if family == "llama-3" else LinearRope)
    ours = body_of(backbone)
    x, position = torch.randn(1, 300, 64), torch.arange(300)[None]
    whole = ours(x, position, torch.zeros_like(position))
    cache = ours.make_cache(1, 300)
    for start, stop in ((0, 200), (200, 299), (299, 300)):
        rows = cache.rows(0, 1, position[:, start:stop], stop)
        hidden = ours(x[:, start:stop], position[:, start:stop], cache=rows)
        torch.testing.assert_close(hidden, whole[:, start:stop], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scaling", [None, LinearRope(2.0), Llama3Rope(8.0, 1.0, 4.0, 64)])
def test_scalings_are_written_in_the_words_that_are_read(scaling, tmp_path) -> None:
    language_model("llama-2", tmp_path)
    config = replace(read_backbone(tmp_path).config, rope_scaling=scaling)
    assert read_body(Fields(body_config(config), "config.json"), False) == config


@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_tokenizer_comes_along_and_gets_the_tokens_of_janus(family, tmp_path) -> None:
    language_model(family, tmp_path)
    backbone, before = read_backbone(tmp_path), Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    bos, eos = FAMILIES[family][2:]
    text, words = backbone.text, "two red apples, what is it?"
    assert text.encode(words) == before.encode(words, add_special_tokens=False).ids
    assert text.decode(text.encode(words)) == words
    assert text.eos_id == before.token_to_id(eos)
    assert text.bos_id == (None if bos is None else before.token_to_id(bos))
    added = [text.special_id(token) for token in (PAD, BEGIN_OF_IMAGE, END_OF_IMAGE, IMAGE_PLACEHOLDER)]
    assert added == list(range(backbone.num_known, backbone.num_known + 4))
    assert text.vocab_size == backbone.num_known + 4
    assert backbone.config.vocab_size == 448  # spare rows sufficed
    assert text.encode(eos) != [text.eos_id]  # nobody can type it
    assert text.tokenizer.encode("it").ids[:1] == [text.bos_id] or bos is None  # the post-processor knows the new name


@pytest.mark.parametrize("family", ["llama-2", "qwen2.5"])
@torch.no_grad()
def test_a_table_without_spare_rows_grows(family, tmp_path) -> None:
    num_known = read_known(family, tmp_path / "first")
    theirs = language_model(family, tmp_path / "full", num_known + 1)
    backbone = read_backbone(tmp_path / "full")
    assert backbone.num_stored == num_known + 1 and backbone.config.vocab_size == -(-(num_known + 4) // 64) * 64
    body = body_of(backbone)
    rows = theirs.get_input_embeddings().weight
    assert torch.equal(body.embedding.weight[:num_known], rows[:num_known])
    new = body.embedding.weight[num_known : num_known + 4]
    assert (new - rows[:num_known].mean(dim=0)).abs().max() < 0.1
    assert len(new.unique(dim=0)) == 4
    assert (body.text_head.weight is body.embedding.weight) == (family == "qwen2.5")


def read_known(family: str, folder: Path) -> int:
    language_model(family, folder)
    return read_backbone(folder).num_known


def test_the_end_of_a_document_is_found_wherever_it_is_named(tmp_path) -> None:
    language_model("llama-2", tmp_path)
    text = read_backbone(tmp_path).text
    edit(tmp_path, "tokenizer_config.json", add_bos_token=False)
    assert read_backbone(tmp_path).text.bos_id is None
    (tmp_path / "tokenizer_config.json").rename(tmp_path / "special_tokens_map.json")
    edit(tmp_path, "special_tokens_map.json", add_bos_token="absent")
    assert read_backbone(tmp_path).text.bos_id == text.bos_id
    (tmp_path / "special_tokens_map.json").unlink()
    edit(tmp_path, bos_token_id=text.bos_id, eos_token_id=[text.eos_id, 7])
    found = read_backbone(tmp_path).text
    assert (found.bos_id, found.eos_id) == (text.bos_id, text.eos_id)
    edit(tmp_path, eos_token_id=None)
    with pytest.raises(ValueError, match="no token that ends a document; name one of its tokens as eos_token"):
        read_backbone(tmp_path)


def test_a_token_that_has_the_name_of_ours_changes_places_with_the_one_in_its_role(tmp_path) -> None:
    """As in deepseek-coder-instruct, whose answers end with another token than its documents."""
    language_model("deepseek-llm", tmp_path)
    path = tmp_path / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens(["<|EOT|>"])
    tokenizer.save(str(path))
    edit(tmp_path, "tokenizer_config.json", eos_token="<|EOT|>")
    text = read_backbone(tmp_path).text
    assert text.eos_id == tokenizer.token_to_id("<|EOT|>")
    assert text.special_id("<|EOT|>") == tokenizer.token_to_id("<｜end▁of▁sentence｜>")


WRONG = {
    "mixtral": ({"model_type": "mixtral"}, "model_type 'mixtral' cannot be the body of a Janus"),
    "yarn": ({"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": 32}}, "rope_scaling.type is 'yarn'"),
    "dynamic": ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, "rope_scaling.rope_type is 'dynamic'"),
    "longrope": ({"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters.rope_type is 'longrope'"),
    "bias on the output": ({"attention_bias": True}, "attention_bias is True, openjanus supports False only"),
    "bias in the feed-forward": ({"mlp_bias": True}, "mlp_bias is True"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu', openjanus supports 'silu' only"),
    "experts": ({"num_local_experts": 8}, "unknown key 'num_local_experts'"),
    "quantised": ({"quantization_config": {"bits": 4}}, "unknown key 'quantization_config'"),
    "no factor": ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters.factor is missing"),
    "factors": (
        {"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1,
         "original_max_position_embeddings": 8192}},
        "config.json: high_frequency_factor is 1.0, expected more than low_frequency_factor 4.0",
    ),
    "few rows": ({"vocab_size": 100}, "the tokenizer has ... ids, the model only 100"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_honoured_is_refused_in_one_line(case, tmp_path) -> None:
    language_model("llama-2", tmp_path)
    changes, message = WRONG[case]
    edit(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as error:
        read_backbone(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize("family", ["mistral", "qwen2.5", "qwen3"])
@pytest.mark.parametrize("key", ["head_dim", "num_key_value_heads", "hidden_size"])
def test_a_family_with_other_defaults_must_say_its_sizes(family, key, tmp_path) -> None:
    language_model(family, tmp_path)
    edit(tmp_path, **{key: "absent"})
    if key == "head_dim" and family != "qwen3":
        assert read_backbone(tmp_path).config.head_width == 16  # width / heads in these families
    else:
        with pytest.raises(ValueError, match=f"{key} is missing"):
            read_backbone(tmp_path)


WINDOWS = {
    "mistral": [({"sliding_window": None}, None), ({"sliding_window": 100}, 100), ({"sliding_window": "absent"}, 4096)],
    "qwen2.5": [
        ({"sliding_window": 100}, None),
        ({"sliding_window": 100, "use_sliding_window": True, "layer_types": "absent", "max_window_layers": 1}, 100),
        ({"sliding_window": 100, "use_sliding_window": True, "layer_types": "absent", "max_window_layers": 2}, None),
        ({"sliding_window": 100, "use_sliding_window": True, "layer_types": ["full_attention"] * 2}, None),
    ],
}  # fmt: skip


@pytest.mark.parametrize("family", WINDOWS)
def test_a_sliding_window_must_reach_as_far_as_documents(family, tmp_path) -> None:
    language_model(family, tmp_path)
    for changes, window in WINDOWS[family]:
        edit(tmp_path, **changes)
        backbone = read_backbone(tmp_path)
        assert backbone.window == window
    edit(tmp_path, sliding_window=100)
    if family == "qwen2.5":
        edit(tmp_path, layer_types=["full_attention", "sliding_attention"])
    backbone = read_backbone(tmp_path)
    backbone.check(replace(backbone.config, max_positions=100))
    with pytest.raises(ValueError, match=r"sliding_window is 100, but .*max_positions 512.*max_positions=100"):
        backbone.check(backbone.config)


def test_damaged_and_missing_files_are_named(tmp_path) -> None:
    language_model("qwen3", tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokenizer file"):
        read_backbone(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"no tokenizer\.json; save it there with transformers"):
        read_backbone(tmp_path)


def test_a_tensor_of_another_shape_is_named(tmp_path) -> None:
    language_model("qwen3", tmp_path)
    edit(tmp_path, intermediate_size=80)
    with pytest.raises(ValueError, match=r"mlp\.\w+_proj\.weight has shape \[.*\], expected \["):
        body_of(read_backbone(tmp_path))


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_streamed_in_whole_characters(family, tmp_path) -> None:
    language_model(family, tmp_path)
    text, words = read_backbone(tmp_path).text, "two red  apples, 苹果 🦋 what is it?\n\nre"
    for said in (words, f" {words}"):
        stream = TextStream(text)
        pieces = [stream.add([id]) for id in text.encode(said)] + [stream.flush()]
        assert "".join(pieces) == words and not any("\ufffd" in piece for piece in pieces)
