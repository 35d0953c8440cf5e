"""Every stage equals transformers' Janus, from its own folders, tied and not, and from the official folder of the same
weights."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, JanusConfig, JanusForConditionalGeneration

import openjanus
from openjanus.processing.image import understanding_pixels
from openjanus.processing.processor import Message
from openjanus.testing import TINY, reference, stages, tiny_checkpoint, tiny_janus
from openjanus.testing.stages import Pair
from openjanus.weights import checkpoint
from openjanus.weights.config import Checkpoint

transformers.logging.set_verbosity_error()
TEMPLATES = ("deepseek", "deepseek_old")


@pytest.fixture(scope="module", params=stages.KINDS)
def pair(request, tmp_path_factory) -> Pair:
    return stages.make_pair(tmp_path_factory.mktemp("reference"), request.param)


@pytest.fixture(scope="module", params=TEMPLATES)
def official_pair(request, tmp_path_factory) -> Pair:
    return stages.make_pair(tmp_path_factory.mktemp("official"), "official", request.param)


@pytest.mark.parametrize("tied", [True, False])
def test_the_references_folder_is_as_the_converter_writes_it(tied, tmp_path) -> None:
    assert JanusConfig().tie_word_embeddings  # its converter leaves it so, and loses a head of its own
    theirs, _ = reference.make_reference(tmp_path, tied=tied)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["vq_config"]["depth"] == 2
    assert config["tie_word_embeddings"] is tied and config["text_config"]["tie_word_embeddings"] is False
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not tied
    assert (theirs.lm_head.weight is theirs.model.language_model.embed_tokens.weight) is tied


@pytest.mark.parametrize("says", [True, None])
def test_a_stored_head_counts_whatever_the_config_says(says, tmp_path) -> None:
    """Older folders of the converter hold a head of its own, and no word of it at the outermost level."""
    reference.make_reference(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop("tie_word_embeddings")
    (tmp_path / "config.json").write_text(
        json.dumps(config if says is None else {**config, "tie_word_embeddings": says})
    )
    theirs = JanusForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(checkpoint.load(tmp_path).model.language_model.text_head.weight, theirs.lm_head.weight)
    assert not torch.equal(theirs.lm_head.weight, theirs.model.language_model.embed_tokens.weight)


@pytest.mark.parametrize("stage", stages.CLOSE)
def test_numbers_agree(pair, stage) -> None:
    ours, theirs = stages.CLOSE[stage](pair)
    assert theirs.std() > 0.01  # nothing to compare otherwise
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("stage", stages.EQUAL)
def test_ids_are_equal(pair, stage) -> None:
    ours, theirs = stages.EQUAL[stage](pair)
    assert theirs.unique().numel() > 2
    assert torch.equal(ours, theirs)


def test_decoded_pictures_agree_within_a_level(pair) -> None:
    ours, theirs = stages.decoded_pictures(pair)
    assert (ours - theirs).abs().max() <= 1


def test_transformers_own_look_up_gives_other_ids(pair) -> None:
    """The trap that `vq_encode` avoids is real: without normalisation other ids come out."""
    pixels = stages.noise(2, 3, 64, 64)
    unnormalised = pair.theirs.model.vqmodel.encode(pixels).image_tokens
    assert not torch.equal(unnormalised.view(2, -1), pair.ours.generation.tokenizer.encode(pixels))


TALKS = {
    "text": (["hello there, how are you?"], "hello there, how are you?"),
    "picture first": ([stages.picture(), "what is it?"], "<image_placeholder>\nwhat is it?"),
    "picture last": (["what is it?", stages.picture()], "what is it?\n<image_placeholder>"),
    "between": (["look", stages.picture(), "well?"], "look\n<image_placeholder>\nwell?"),
    "two": ([stages.picture(), stages.picture(), "and?"], "<image_placeholder>\n<image_placeholder>\nand?"),
    "marks": (
        [
            stages.picture(),
            stages.picture(),
            " <image_placeholder> is Figure 1.\n<image_placeholder> is Figure 2. Which is a cat? ",
        ],
        "<image_placeholder> is Figure 1.\n<image_placeholder> is Figure 2. Which is a cat?",
    ),
    "marks inside lines": (
        ["look at <image_placeholder>, please,", stages.picture(), "and <image_placeholder>", stages.picture()],
        "look at <image_placeholder>, please, and <image_placeholder>",
    ),
    "the white space of parts": (
        ["what differs between", stages.picture(), " and ", stages.picture()],
        "what differs between\n<image_placeholder>\n and \n<image_placeholder>",
    ),
    "spaces": (["  12  dogs \n"], "12  dogs"),
    "unicode": (["wie heißt 猫?"], "wie heißt 猫?"),
}


@pytest.mark.parametrize("talk", TALKS)
def test_token_ids_are_the_references(talk, official_pair) -> None:
    """The reference encodes the whole conversation as one string, in the words of conversation.py."""
    pair = official_pair
    user, assistant = reference.ROLES[pair.template]
    system = pair.engine.processor.config.system_prompt
    assert system.startswith("You are a helpful language and vision assistant.")
    content, words = TALKS[talk]
    images = [part for part in content if not isinstance(part, str)]
    text = f"{reference.BOS}{system}\n\n{user}: {words}\n\n{assistant}: fine{reference.EOS}{user}: why?\n\n{assistant}:"
    messages = [Message("user", content), Message("assistant", ["fine"]), Message("user", ["why?"])]
    inputs = pair.their_processor(text=text, images=images or None, return_tensors="pt")
    assert stages.document_ids(pair, messages) == inputs["input_ids"][0].tolist()

    drawing = f"{reference.BOS}{user}: two red dogs\n\n{assistant}:{reference.BOI}"
    ids = pair.their_processor.tokenizer(drawing, add_special_tokens=False)["input_ids"]
    assert stages.document_ids(pair, [Message("user", ["two red dogs "])], draw=True) == ids


@pytest.mark.parametrize("size", [(64, 64), (200, 200), (128, 64), (64, 256), (1, 3000), (300, 7), (640, 480)])
def test_pixels_agree_within_a_level(pair, size) -> None:
    image = stages.picture(3, *size)
    ours = understanding_pixels(image, pair.engine.processor.config.pixels)
    theirs = pair.their_processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
    level = 2 / 255
    assert ours.shape == theirs.shape == (3, 64, 64)
    assert (ours - theirs).abs().max() <= level * 1.01
    if size == (64, 64):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def read_by_both(folder) -> Pair:
    """A folder of ours in transformers' format, every tensor of which transformers must use."""
    theirs, told = JanusForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told
    processor = AutoProcessor.from_pretrained(folder)
    return Pair(theirs.eval().requires_grad_(False), processor, openjanus.load(folder, "cpu", "float32"))


@pytest.mark.parametrize(("template", "tied"), [("deepseek", False), ("deepseek_old", True)])
def test_transformers_reads_what_we_write(template, tied, tmp_path) -> None:
    """Our folder in transformers' format: every tensor used, the same numbers, the same words."""
    model, _ = reference.make_reference(tmp_path / "theirs", template, tied=tied)
    checkpoint.save(checkpoint.load(tmp_path / "theirs", dtype=None), tmp_path / "ours", form="transformers")
    pair = read_by_both(tmp_path / "ours")
    processor = pair.their_processor
    for name, tensor in model.state_dict().items():
        assert torch.equal(pair.theirs.state_dict()[name], tensor), name
    for ours, theirs in (stages.greedy_image_ids_guidance_5(pair), stages.greedy_text_two_turns(pair)):
        assert torch.equal(ours, theirs)
    said = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": [{"type": "text", "text": "and "}, {"type": "image"}]},
    ]
    words = reference.BOS + processor.apply_chat_template(said, add_generation_prompt=True)
    inputs = processor(text=words, images=[stages.picture()] * 2, return_tensors="pt")
    messages = [
        Message("user", [stages.picture(), "what is it?"]),
        Message("assistant", ["a cat"]),
        Message("user", ["and ", stages.picture()]),
    ]
    assert stages.document_ids(pair, messages) == inputs["input_ids"][0].tolist()


def test_transformers_runs_a_body_with_qk_norm(tmp_path) -> None:
    config = replace(TINY, language_model=replace(TINY.language_model, qk_norm=True))
    processor = checkpoint.load(tiny_checkpoint(tmp_path / "tiny", "transformers")).processor
    checkpoint.save(Checkpoint(tiny_janus(0, config), processor, {}), tmp_path / "ours", form="transformers")
    pair = read_by_both(tmp_path / "ours")
    for stage in (stages.text_logits, stages.text_logits_with_cache, stages.first_step_image_logits):
        ours, theirs = stage(pair)
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)
    for stage in (stages.greedy_image_ids_guidance_5, stages.greedy_text_one_picture):
        ours, theirs = stage(pair)
        assert torch.equal(ours, theirs)
    pair.theirs.save_pretrained(tmp_path / "theirs")
    for name in ("tokenizer.json", "processor_config.json", "preprocessor_config.json"):
        shutil.copyfile(tmp_path / "ours" / name, tmp_path / "theirs" / name)
    assert checkpoint.load(tmp_path / "theirs").model.config == config


def test_the_system_prompt_is_that_of_transformers_where_its_processor_uses_it(tmp_path) -> None:
    """As its converter sets it. (Its processor writes the prompt before the begin-of-sentence token of the words.)"""
    model, processor = reference.make_reference(tmp_path)
    processor.use_default_system_prompt = True
    processor.save_pretrained(tmp_path)
    pair = Pair(model, processor, openjanus.load(tmp_path, "cpu"))
    user, assistant = reference.ROLES["deepseek"]
    theirs = processor(text=f"{user}: hello\n\n{assistant}:", return_tensors="pt")["input_ids"][0].tolist()
    assert stages.document_ids(pair, [Message("user", ["hello"])])[1:] == theirs


def test_a_preprocessor_that_names_no_mean_has_that_of_transformers(tmp_path) -> None:
    reference.make_reference(tmp_path)
    config = json.loads((tmp_path / "processor_config.json").read_text())
    for key in ("image_mean", "image_std", "background_color"):
        del config["image_processor"][key]
    (tmp_path / "processor_config.json").write_text(json.dumps(config))
    image = stages.picture(3, 64, 32)
    theirs = AutoProcessor.from_pretrained(tmp_path).image_processor(image, return_tensors="pt")["pixel_values"][0]
    ours = understanding_pixels(image, checkpoint.load(tmp_path).processor.config.pixels)
    torch.testing.assert_close(ours, theirs, atol=2 / 255 / 0.25, rtol=0)


def test_a_circle_of_conversions_changes_no_bit(tmp_path) -> None:
    model, _ = reference.make_reference(tmp_path / "reference")
    folder = reference.write_official(model, tmp_path / "official")
    weights = {name: t.to(torch.bfloat16) for name, t in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    for form in ("openjanus", "transformers", "official"):
        checkpoint.save(checkpoint.load(folder, dtype=None), tmp_path / f"as-{form}", form=form)
        folder = tmp_path / f"as-{form}"
    again = load_file(folder / "model.safetensors")
    assert weights.keys() - again.keys() == reference.UNUSED.keys() and not again.keys() - weights.keys()
    assert len(reference.UNUSED) == 14
    for name, tensor in again.items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, weights[name]), name
