"""What is compared with what, stage by stage: each function gives our result and the reference's on the same input.

`scripts/make_parity.py` prints the same comparisons as the table in docs/parity.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import JanusForConditionalGeneration, JanusProcessor

from openjanus.inference.engine import Engine, load
from openjanus.inference.sampling import SamplingOptions
from openjanus.model.janus import Janus
from openjanus.processing.processor import Message
from openjanus.sequence import Batch, Document, Kind, TextSpan, UnderstandSpan, collate, lay_out, num_tokens
from openjanus.testing import reference
from openjanus.testing.reference import BOI, EOI, NUM_FEATURES, PAD, PICTURE, ROLES, SIZE_PX

PROMPTS = ("a cat", "two red apples on a white background", "three small dogs above a big blue umbrella, in the style")
NUM_NEW = 12


@dataclass
class Pair:
    """One set of weights in both implementations."""

    theirs: JanusForConditionalGeneration
    their_processor: JanusProcessor
    engine: Engine

    @property
    def ours(self) -> Janus:
        return self.engine.model

    @property
    def template(self) -> str:
        return self.engine.processor.config.template


KINDS = ("transformers", "tied", "official")  # folders of a reference


def make_pair(folder: Path, kind: str, template: str = "deepseek") -> Pair:
    """A reference in a folder of one of `KINDS`, read by both implementations."""
    tied = kind == "tied"
    seed = 3 if tied else 0  # whose greedy answers have several words
    model, processor = reference.make_reference(folder / "transformers", template, seed, tied)
    if kind == "official":
        reference.write_official(model, folder / "official", template)
    return Pair(model, processor, load(folder / kind.replace("tied", "transformers"), "cpu", "float32"))


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def picture(seed: int = 0, width: int = SIZE_PX, height: int = SIZE_PX) -> Image.Image:
    """A square is resampled by neither side; others are."""
    values = torch.randint(256, (8, 8, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(values.numpy()).resize((width, height), Image.Resampling.BICUBIC)


def image_ids(M: int = 2) -> Tensor:
    return torch.randint(96, (M, NUM_FEATURES), generator=torch.Generator().manual_seed(2))


Compared = tuple[Tensor, Tensor]


def siglip_features(p: Pair) -> Compared:
    pixels = noise(2, 3, SIZE_PX, SIZE_PX)
    encoder = p.ours.understanding.get_submodule("encoder")
    return encoder(pixels), p.theirs.model.vision_model(pixels).last_hidden_state


def understanding_embeddings(p: Pair) -> Compared:
    pixels = noise(2, 3, SIZE_PX, SIZE_PX)
    return p.ours.understanding(pixels), p.theirs.model.get_image_features(pixels).pooler_output


def generation_embeddings(p: Pair) -> Compared:
    return p.ours.generation(image_ids()), p.theirs.prepare_embeddings_for_image_generation(image_ids())


def image_head_logits(p: Pair) -> Compared:
    hidden = noise(2, 5, 64)
    return p.ours.heads[Kind.GENERATE](hidden), p.theirs.model.generation_head(hidden)


def vq_encode(p: Pair) -> Compared:
    """The original's look-up, of normalised latents in a normalised codebook; transformers' `encode` omits that."""
    vq, pixels = p.theirs.model.vqmodel, noise(2, 3, SIZE_PX, SIZE_PX)
    latents = F.normalize(vq.quant_conv(vq.encoder(pixels)), dim=1).permute(0, 2, 3, 1).flatten(1, 2)
    codes = F.normalize(vq.quantize.embedding.weight, dim=-1)
    distance = (latents[:, :, None] - codes).pow(2).sum(-1)
    return p.ours.generation.tokenizer.encode(pixels), distance.argmin(-1)


def vq_decode(p: Pair) -> Compared:
    return p.ours.generation.tokenizer.decode(image_ids()), p.theirs.model.vqmodel.decode(image_ids())


def _documents(p: Pair) -> list[Document]:
    """Three conversations of different lengths, two of them with pictures."""
    pictures = [picture(1), picture(2)]
    talks: list[list[str | Image.Image]] = [
        ["what is it?"],
        [pictures[0], "what is it?"],
        [pictures[0], "and", pictures[1], "what do these two have in common?"],
    ]
    return [p.engine.processor.prompt([Message("user", talk)]) for talk in talks]


def _reference_inputs(p: Pair, batch: Batch) -> dict[str, Tensor]:
    """The same batch as transformers takes it."""
    placeholder = p.their_processor.tokenizer.convert_tokens_to_ids(PICTURE)
    ids = torch.where(batch.kind == Kind.UNDERSTAND, placeholder, batch.tokens)
    assert batch.pixels is not None
    return {"input_ids": ids, "attention_mask": (batch.document >= 0).long(), "pixel_values": batch.pixels}


def text_logits(p: Pair) -> Compared:
    """Padded rows, pictures in context, no cache; padding is left out of the comparison."""
    documents = _documents(p)
    batch = lay_out([[document] for document in documents], max(map(num_tokens, documents)))
    real = batch.document >= 0
    ours = p.ours.heads[Kind.TEXT](p.ours(batch))
    theirs = p.theirs(**_reference_inputs(p, batch)).logits
    return ours[real], theirs[real]


def text_logits_with_cache(p: Pair) -> Compared:
    """The longest of these conversations in pieces: all but the last three positions, then one after the other."""
    batch = collate(_documents(p)[2:])
    T = batch.tokens.shape[1]
    x, cache, hidden = p.ours.embed(batch), p.ours.language_model.make_cache(1, T), []
    for start, stop in ((0, T - 3), (T - 3, T - 2), (T - 2, T - 1), (T - 1, T)):
        position = batch.position[:, start:stop]
        rows = cache.rows(0, 1, position, stop)
        hidden.append(p.ours.language_model(x[:, start:stop], position, cache=rows))
    theirs = p.theirs(**_reference_inputs(p, batch)).logits
    return p.ours.heads[Kind.TEXT](torch.cat(hidden[1:], dim=1)), theirs[:, -3:]


def _answer_ids(p: Pair, messages: list[Message]) -> Tensor:
    """Ids of our greedy answer, end included."""
    request = p.engine.answer(messages, SamplingOptions(temperature=0.0), NUM_NEW)
    for _ in p.engine._run([request]):
        pass
    return torch.cat(request.ids)


def _greedy_text(p: Pair, messages: list[Message], words: str) -> Compared:
    """`words`: the conversation as the reference's processor takes it."""
    tokenizer = p.their_processor.tokenizer
    images = [part for m in messages for part in m.content if isinstance(part, Image.Image)]
    inputs = p.their_processor(text=words, images=images or None, return_tensors="pt")
    barred = tokenizer.convert_tokens_to_ids([PAD, tokenizer.bos_token, BOI, EOI])
    beyond = list(range(len(tokenizer), p.theirs.config.text_config.vocab_size))
    answer = p.theirs.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=NUM_NEW,
        suppress_tokens=barred + beyond,
    )
    theirs = answer[0, inputs["input_ids"].shape[1] :]
    ours = _answer_ids(p, messages)[: len(theirs)]
    return ours, theirs


def greedy_text_only(p: Pair) -> Compared:
    user, assistant = ROLES[p.template]
    return _greedy_text(p, [Message("user", ["hello there"])], f"{_begin(p)}{user}: hello there\n\n{assistant}:")


def greedy_text_one_picture(p: Pair) -> Compared:
    user, assistant = ROLES[p.template]
    return _greedy_text(
        p,
        [Message("user", [picture(1), "what is it?"])],
        f"{_begin(p)}{user}: {PICTURE}\nwhat is it?\n\n{assistant}:",
    )


def greedy_text_two_pictures(p: Pair) -> Compared:
    user, assistant = ROLES[p.template]
    return _greedy_text(
        p,
        [Message("user", [picture(1), picture(2), "what differs?"])],
        f"{_begin(p)}{user}: {PICTURE}\n{PICTURE}\nwhat differs?\n\n{assistant}:",
    )


def greedy_text_two_turns(p: Pair) -> Compared:
    user, assistant = ROLES[p.template]
    messages = [
        Message("user", [picture(1), "what is it?"]),
        Message("assistant", ["a red cat"]),
        Message("user", ["are you sure?"]),
    ]
    words = (
        f"{_begin(p)}{user}: {PICTURE}\nwhat is it?\n\n{assistant}: a red cat{p.their_processor.tokenizer.eos_token}"
        f"{user}: are you sure?\n\n{assistant}:"
    )
    return _greedy_text(p, messages, words)


def _begin(p: Pair) -> str:
    """What stands before the first turn of a conversation."""
    system = p.engine.processor.config.system_prompt
    return _bos(p) + (f"{system}\n\n" if system else "")


def _bos(p: Pair) -> str:
    return p.their_processor.tokenizer.bos_token


def greedy_image_ids_guidance_5(p: Pair) -> Compared:
    """Three prompts of different lengths in one batch."""
    user, assistant = ROLES[p.template]
    words = [f"{_bos(p)}{user}: {prompt}\n\n{assistant}:" for prompt in PROMPTS]
    inputs = p.their_processor(text=words, padding=True, generation_mode="image", return_tensors="pt")
    theirs = p.theirs.generate(**inputs, generation_mode="image", guidance_scale=5.0, do_sample=False)
    return p.engine.generate_ids(PROMPTS, temperature=0.0, guidance=5.0), theirs


def greedy_image_ids_guidance_1(p: Pair) -> Compared:
    """Without an unconditional row. transformers' `generate` cannot do that, so its model is called step by step."""
    user, assistant = ROLES[p.template]
    words = f"{_bos(p)}{user}: {PROMPTS[1]}\n\n{assistant}:{BOI}"
    ids = torch.tensor([p.their_processor.tokenizer(words, add_special_tokens=False)["input_ids"]])
    embedded, theirs = p.theirs.get_input_embeddings()(ids), []
    for _ in range(NUM_FEATURES):
        hidden = p.theirs.model.language_model(inputs_embeds=embedded).last_hidden_state[:, -1]
        theirs.append(p.theirs.model.generation_head(hidden).argmax(-1))
        drawn = p.theirs.prepare_embeddings_for_image_generation(theirs[-1][:, None])
        embedded = torch.cat([embedded, drawn], dim=1)
    return p.engine.generate_ids(PROMPTS[1], temperature=0.0, guidance=1.0), torch.stack(theirs, dim=1)


def first_step_image_logits(p: Pair) -> Compared:
    """Guided logits of the first image id, from the original's formula and rows (generation_inference.py)."""
    document = p.engine.processor.prompt([Message("user", [PROMPTS[1]])], draw=True)
    rows = [document, p.engine.processor.unconditional(document)]
    ours = p.ours.heads[Kind.GENERATE](p.ours(collate(rows))[:, -1])
    user, assistant = ROLES[p.template]
    tokenizer = p.their_processor.tokenizer
    words = f"{_bos(p)}{user}: {PROMPTS[1]}\n\n{assistant}:{BOI}"
    ids = torch.tensor(tokenizer(words, add_special_tokens=False)["input_ids"])
    blank = ids.clone()
    blank[1:-1] = tokenizer.pad_token_id
    embedded = p.theirs.get_input_embeddings()(torch.stack([ids, blank]))
    hidden = p.theirs.model.language_model(inputs_embeds=embedded).last_hidden_state[:, -1]
    conditional, unconditional = p.theirs.model.generation_head(hidden)
    return ours[1] + 5 * (ours[0] - ours[1]), unconditional + 5 * (conditional - unconditional)


def decoded_pictures(p: Pair) -> Compared:
    """Pixel levels of drawn pictures, in 255, by the original's formula (generation_inference.py)."""
    ours = torch.stack([torch.from_numpy(np.array(image)) for image in p.engine.decode_images(image_ids())])
    theirs = p.theirs.decode_image_tokens(image_ids())
    return ours.int(), ((theirs + 1) / 2 * 255).clamp(0, 255).to(torch.uint8).int()


def document_ids(p: Pair, messages: list[Message], draw: bool = False) -> list[int]:
    """Ids of our document, pictures as placeholders, as the reference's processor gives them."""
    placeholder = p.their_processor.tokenizer.convert_tokens_to_ids(PICTURE)
    ids: list[int] = []
    for span in p.engine.processor.prompt(messages, draw=draw):
        if isinstance(span, TextSpan):
            ids += span.ids
        else:
            assert isinstance(span, UnderstandSpan)
            ids += [placeholder] * span.num_features
    return ids


# Name -> function; the first group is compared number by number, the second must be equal.
CLOSE: dict[str, Callable[[Pair], Compared]] = {
    "SigLIP features": siglip_features,
    "understanding adaptor": understanding_embeddings,
    "generation embedding and adaptor": generation_embeddings,
    "text logits, padded batch with pictures": text_logits,
    "text logits from the cache": text_logits_with_cache,
    "image head logits": image_head_logits,
    "guided logits of the first image id": first_step_image_logits,
    "VQ decode": vq_decode,
}
EQUAL: dict[str, Callable[[Pair], Compared]] = {
    "VQ encode, the original's look-up": vq_encode,
    "greedy text, no picture": greedy_text_only,
    "greedy text, one picture": greedy_text_one_picture,
    "greedy text, two pictures": greedy_text_two_pictures,
    "greedy text, two turns": greedy_text_two_turns,
    "greedy image ids, guidance 5, three lengths": greedy_image_ids_guidance_5,
    "greedy image ids, guidance 1": greedy_image_ids_guidance_1,
}
