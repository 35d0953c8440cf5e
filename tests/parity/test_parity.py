"""Every stage equals transformers' Janus, from its own folder and from the official folder of the same weights."""

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, JanusForConditionalGeneration

import openjanus
from openjanus.processing.image import understanding_pixels
from openjanus.processing.processor import Message
from openjanus.weights import checkpoint
from tests.parity import reference, stages
from tests.parity.stages import Pair

transformers.logging.set_verbosity_error()
TEMPLATES = ("deepseek", "deepseek_old")


@pytest.fixture(scope="module", params=["transformers", "official"])
def pair(request, tmp_path_factory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("reference"), request.param)


def make_pair(folder, form: str, template: str = "deepseek") -> Pair:
    model, processor = reference.make_reference(folder / "transformers", template)
    reference.write_official(model, folder / "official", template)
    return Pair(model, processor, openjanus.load(folder / form, "cpu", "float32"))


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


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("talk", TALKS)
def test_token_ids_are_the_references(talk, template, tmp_path) -> None:
    """The reference encodes the whole conversation as one string, in the words of conversation.py."""
    pair = make_pair(tmp_path, "official", template)
    user, assistant = reference.ROLES[template]
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


@pytest.mark.parametrize("template", TEMPLATES)
def test_transformers_reads_what_we_write(template, tmp_path) -> None:
    """Our folder in transformers' format: every tensor used, the same numbers, the same words."""
    model, _ = reference.make_reference(tmp_path / "theirs", template)
    checkpoint.save(checkpoint.load(tmp_path / "theirs", dtype=None), tmp_path / "ours", form="transformers")
    again, told = JanusForConditionalGeneration.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(told.values()), told
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    pair = Pair(again.eval(), processor, openjanus.load(tmp_path / "ours", "cpu", "float32"))
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


def test_a_circle_of_conversions_changes_no_bit(tmp_path) -> None:
    model, _ = reference.make_reference(tmp_path / "reference")
    folder = reference.write_official(model, tmp_path / "official")
    weights = {name: t.to(torch.bfloat16) for name, t in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    for form in ("openjanus", "transformers", "official"):
        checkpoint.save(checkpoint.load(folder, dtype=None), tmp_path / f"as-{form}", form=form)
        folder = tmp_path / f"as-{form}"
    again = load_file(folder / "model.safetensors")
    dropped = {"vision_model.vision_tower.attn_pool.latent", "gen_vision_model.quantize.codebook_used"}
    assert weights.keys() - again.keys() == dropped and not again.keys() - weights.keys()
    for name, tensor in again.items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, weights[name]), name
