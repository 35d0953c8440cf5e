"""LoRA: the layer against its formula, what is trained, what is stored, and that every door gives the merged model."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from openjanus.config import ConfigError
from openjanus.inference.engine import load as load_engine
from openjanus.inference.quantisation import LINEAR
from openjanus.model.lora import LoRALinear, LoRAStored, merge
from openjanus.recipes.adapter_files import save_adapter
from openjanus.recipes.evaluators import keep_result
from openjanus.runtime import Runtime
from openjanus.testing import tiny_checkpoint
from openjanus.training.janus import JanusTraining
from openjanus.training.lora import LoRAConfig, add_lora
from openjanus.training.run import Run, restore, train
from openjanus.training.stage import Stage
from openjanus.weights import checkpoint
from openjanus.weights.adapters import read_adapter
from openjanus.weights.checkpoint import stored_tensors
from tests import tiny

TRAINABLE = ("*.lora_a", "*.lora_b", "understanding.adaptor.*", "generation.adaptor.*", "generation.head.*")
MIXTURE = {"emoji.questions": 2.0, "emoji.drawings": 2.0}


def test_the_layer_computes_its_formula_and_begins_as_its_base() -> None:
    base = torch.nn.Linear(6, 5)
    x = torch.randn(3, 6)
    layer = LoRALinear(base, rank=2, alpha=3.0)
    assert torch.equal(layer(x), base(x)) and layer.weight is base.weight
    with torch.no_grad():
        layer.lora_b.normal_()
    expected = base(x) + 1.5 * (x @ layer.lora_a.T @ layer.lora_b.T)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(torch.nn.functional.linear(x, layer.merged(), base.bias), expected)
    assert merge(base.weight.bfloat16(), layer.lora_a, layer.lora_b, 1.5).dtype == torch.bfloat16


@pytest.mark.parametrize("base", ["int8", "int4"])
def test_an_adapter_beside_few_bits_has_the_gradients_of_the_matrix_that_they_stand_for(base) -> None:
    """The forward pass is that of inference; its kernels also round activations to 8 bits."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 48)
    stored = LINEAR[base](linear.weight.detach(), linear.bias.detach())
    layer = LoRAStored(stored, rank=4, alpha=8.0)
    x = torch.randn(2, 5, 64, requires_grad=True)
    assert torch.equal(layer(x), stored(x.detach()))  # B is zero yet
    torch.nn.init.normal_(layer.lora_b)
    like = torch.nn.Linear(64, 48)
    with torch.no_grad():
        like.weight.copy_(stored.dequantised())
        like.bias.copy_(linear.bias)
    plain = LoRALinear(like, 4, 8.0)
    plain.lora_a, plain.lora_b = layer.lora_a, layer.lora_b
    torch.testing.assert_close(layer(x), plain(x), rtol=0.05, atol=0.05)
    weight = torch.randn(2, 5, 48)
    wanted = (x, layer.lora_a, layer.lora_b)
    for a, b in zip(
        torch.autograd.grad((layer(x) * weight).sum(), wanted),
        torch.autograd.grad((plain(x) * weight).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_qlora_trains_adapters_beside_the_bases_own_matrices(base, tmp_path) -> None:
    """The body is stored in 4 bits while it trains; the adapter is merged into the base's matrices."""
    run = lora_run(base)
    run = replace(run, task=replace(run.task, lora=LoRAConfig(rank=4, base="int4")))
    training = train(run, tmp_path, Runtime.choose("cpu"))
    stored = [m for m in training.model.modules() if isinstance(m, LoRAStored)]
    assert len(stored) == 14 and all(isinstance(m.base, LINEAR["int4"]) and m.lora_b.any() for m in stored)
    adapter = keep_result(training, tmp_path)
    merged, applied = (stored_tensors(c.model) for c in (restore(tmp_path), checkpoint.load(base, adapter=adapter)))
    assert all(torch.equal(tensor, applied[name]) for name, tensor in merged.items())
    with pytest.raises(ValueError, match=r"is \[32, 8\], which int8 cannot store: leave it out of lora\.layers"):
        add_lora(torch.nn.Sequential(torch.nn.Linear(8, 32)), LoRAConfig(layers=("*",), base="int8"))


def test_patterns_choose_layers_of_the_body_and_one_without_a_match_is_an_error() -> None:
    model = tiny.janus()
    names = add_lora(model, LoRAConfig())
    per_layer = ("attention.q", "attention.k", "attention.v", "attention.out", "ffn.gate", "ffn.up", "ffn.down")
    assert names == [f"language_model.layers.{layer}.{name}" for layer in range(2) for name in per_layer]
    with pytest.raises(ValueError, match=r"lora\.layers pattern 'q_proj' matches no linear layer; names look like"):
        add_lora(tiny.janus(), LoRAConfig(layers=("q_proj",)))
    with pytest.raises(ConfigError, match="layers is empty"):
        LoRAConfig(layers=())


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny_checkpoint(folder, "transformers")
    return folder


def lora_run(base, steps: int = 3, **changes) -> Run:
    task = JanusTraining(str(base), row_tokens=192, lora=LoRAConfig(rank=4), **changes)
    return Run("lora", task, (Stage("tune", steps, 0.02, MIXTURE, TRAINABLE),))


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    training = train(lora_run(base), folder, Runtime.choose("cpu"))
    return folder, training, keep_result(training, folder)


def test_only_adapters_and_named_parts_change_and_only_they_are_stored(base, trained) -> None:
    folder, training, adapter = trained
    before = stored_tensors(checkpoint.load(base).model)
    model = training.checkpoint.model
    now = model.state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, now[name])}
    parts = {".".join(name.split(".")[:2]) for name in changed}
    assert parts == {"understanding.adaptor", "generation.adaptor", "generation.head"}
    assert all(module.lora_b.any() for module in model.modules() if isinstance(module, LoRALinear))
    newest = checkpoint_names(folder)
    assert newest == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not (folder / "model").exists() and adapter == folder / "adapter"


def checkpoint_names(folder) -> set[str]:
    path = max((folder / "checkpoints").glob("*/model.safetensors"))
    return set(load_file(path))


def test_an_interrupted_run_goes_on_to_the_same_values(base, trained, tmp_path) -> None:
    run = lora_run(base)
    for _ in range(3):
        train(run, tmp_path, Runtime.choose("cpu"), stop_after=1)
    first, second = (load_file(max((f / "checkpoints").glob("*/model.safetensors"))) for f in (trained[0], tmp_path))
    assert all(torch.equal(first[name], second[name]) for name in first | second)


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8", "int4"])
def test_an_adapter_gives_what_the_merged_model_gives(base, trained, tmp_path, weights) -> None:
    folder, _, adapter = trained
    checkpoint.save(restore(folder), tmp_path, form="transformers")
    merged = load_engine(tmp_path, "cpu", weights)
    adapted = load_engine(base, "cpu", weights, adapter=adapter)
    states = [engine.model.state_dict() for engine in (merged, adapted, load_engine(base, "cpu", weights))]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert any(not torch.equal(tensor, states[2][name]) for name, tensor in states[0].items())
    drawn = [engine.generate(["two red apples", "a blue car"], seeds=[1, 2]) for engine in (merged, adapted)]
    assert [image.tobytes() for image in drawn[0]] == [image.tobytes() for image in drawn[1]]


def test_peft_loads_ours_and_we_load_what_peft_writes(base, trained, tmp_path) -> None:
    """Text logits of both, and the image head, agree with the merged model."""
    import peft
    import transformers

    folder, _, adapter = trained
    ours = restore(folder)
    theirs = transformers.JanusForConditionalGeneration.from_pretrained(base, dtype=torch.float32).eval()
    wrapped = peft.PeftModel.from_pretrained(theirs, adapter).eval()
    ids = torch.arange(5, 25)[None]
    document = torch.zeros_like(ids)
    with torch.no_grad():
        hidden = ours.model.language_model(ours.model.language_model.embedding(ids), torch.arange(20)[None], document)
        got = wrapped(input_ids=ids).logits
        torch.testing.assert_close(ours.model.language_model.text_head(hidden), got, rtol=1e-4, atol=1e-4)
        their_head = wrapped.base_model.model.model.generation_head
        torch.testing.assert_close(ours.model.generation.head(hidden), their_head(hidden), rtol=1e-4, atol=1e-4)
    wrapped.save_pretrained(tmp_path / "theirs")
    names = stored_tensors(checkpoint.load(base).model)
    first, second = read_adapter(adapter, names), read_adapter(tmp_path / "theirs", names)
    assert first.scale == second.scale and first.lora.keys() == second.lora.keys()
    assert first.whole.keys() == second.whole.keys()
    for name, pair in first.lora.items():
        assert all(torch.equal(a, b) for a, b in zip(pair, second.lora[name], strict=True))


def test_what_is_wrong_with_an_adapter_is_named(base, trained, tmp_path) -> None:
    adapter, names = trained[2], stored_tensors(checkpoint.load(base).model)
    with pytest.raises(ValueError, match=r"no adapter_config\.json; expected the folder of an adapter"):
        read_adapter(tmp_path, names)
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    first = next(name for name in tensors if name.endswith("lora_A.weight"))

    def written(config=config, tensors=tensors):
        (tmp_path / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        return tmp_path

    for broken, message in [
        ("{", "damaged or incomplete"),
        ({**config, "peft_type": "IA3"}, "peft_type 'IA3'"),
        ({**config, "use_dora": True}, "use_dora True is not supported, expected False"),
        ({**config, "rank_pattern": {"q": 8}}, "rank_pattern .* is not supported"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_adapter(written(broken), names)
    with pytest.raises(ValueError, match=r"1 tensors belong to no part .*, such as base_model\.model\.strange"):
        read_adapter(written(tensors={**tensors, "base_model.model.strange.weight": torch.zeros(2)}), names)
    with pytest.raises(ValueError, match="holds NaN"):
        read_adapter(written(tensors={**tensors, first: tensors[first] * float("nan")}), names)
    with pytest.raises(ValueError, match="is it of another model"):
        checkpoint.load(base, adapter=written(tensors={**tensors, first: torch.zeros(4, 7)}))
    with pytest.raises(ValueError, match="has no LoRA layers"):
        save_adapter(tiny.janus(), tmp_path / "none", "base")


def test_a_part_that_is_several_matrices_elsewhere_cannot_be_an_adapter(base, tmp_path) -> None:
    run = lora_run(base)
    task = replace(run.task, lora=LoRAConfig(layers=("understanding.encoder.blocks.*.attention.qkv",)))
    training = train(replace(run, task=task), tmp_path, Runtime.choose("cpu"))
    with pytest.raises(ValueError, match="is 3 matrices in transformers: an adapter cannot be stored"):
        keep_result(training, tmp_path)
