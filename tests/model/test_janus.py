"""Janus: the right eye at each position, in any order and number of pictures, and the right head after it."""

from dataclasses import replace

import pytest
import torch

from openjanus.model.janus import Janus
from openjanus.sequence import (
    Document,
    GenerateSpan,
    Kind,
    TextSpan,
    UnderstandSpan,
    collate,
    lay_out,
    num_tokens,
    pack,
)
from tests.tiny import CONFIG, VISION_ENCODER, janus, picture_span, with_tokenizer

IDS = list(range(16))
DOCUMENTS: dict[str, Document] = {
    "text": [TextSpan([5, 6, 7])],
    "look": [TextSpan([5]), picture_span(1), TextSpan([6, 7])],
    "draw": [TextSpan([5]), GenerateSpan(IDS)],
    "draw_then_look": [GenerateSpan(IDS[:5]), TextSpan([9]), picture_span(2)],
    "look_twice_and_draw": [picture_span(3), picture_span(4), TextSpan([8]), GenerateSpan(IDS[::-1]), picture_span(5)],
}


@pytest.fixture(scope="module")
def model() -> Janus:
    return janus()


def embed_slowly(model: Janus, document: Document):
    """One document, span by span, id by id."""
    rows = []
    for span in document:
        if isinstance(span, TextSpan):
            rows += [model.language_model.embedding.weight[i] for i in span.ids]
        elif isinstance(span, GenerateSpan):
            g = model.generation
            rows += [g.adaptor(g.embedding.weight[i]) for i in span.image_ids]
        else:
            u = model.understanding
            rows += list(u.adaptor(u.encoder(span.pixels[None]))[0])
    return torch.stack(rows)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_position_passes_its_own_eye(model, name):
    document = DOCUMENTS[name]
    embedded = model.embed(collate([document]))[0]
    torch.testing.assert_close(embedded, embed_slowly(model, document), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("names", [list(DOCUMENTS), list(DOCUMENTS)[::-1]], ids=["forth", "back"])
def test_pictures_of_several_rows_find_their_places(model, names):
    documents = [DOCUMENTS[name] for name in names]
    embedded = model.embed(lay_out([[document] for document in documents], max(map(num_tokens, documents))))
    for row, document in zip(embedded, documents, strict=True):
        torch.testing.assert_close(row[: num_tokens(document)], embed_slowly(model, document), rtol=1e-4, atol=1e-5)


def test_pictures_of_packed_rows_find_their_places(model):
    batch = pack(DOCUMENTS.values(), row_tokens=40)
    assert len(batch.tokens) > 1 and int(batch.document.max()) > 0
    embedded = model.embed(batch)
    wanted = {num_tokens(d): embed_slowly(model, d) for d in DOCUMENTS.values()}
    assert len(wanted) == len(DOCUMENTS)  # no two of a length: a document is known by it
    for b in range(len(batch.tokens)):
        for number in range(int(batch.document[b].max()) + 1):
            here = embedded[b, batch.document[b] == number]
            torch.testing.assert_close(here, wanted[len(here)], rtol=1e-4, atol=1e-5)


def test_packed_and_alone_give_the_same_hidden(model):
    batch = pack(DOCUMENTS.values(), row_tokens=40)
    hidden = model(batch)
    alone = {num_tokens(d): model(collate([d]))[0] for d in DOCUMENTS.values()}
    for b in range(len(batch.tokens)):
        for number in range(int(batch.document[b].max()) + 1):
            here = hidden[b, batch.document[b] == number]
            torch.testing.assert_close(here, alone[len(here)], rtol=0, atol=2e-5)


def test_an_id_means_another_thing_to_each_eye(model):
    as_text = model.embed(collate([[TextSpan([7])]]))
    drawn = model.embed(collate([[GenerateSpan([7])]]))
    assert not torch.allclose(as_text, drawn, atol=1e-2)


def test_one_eye_may_have_more_ids_than_the_other(model):
    assert model.embed(collate([[TextSpan([1000]), GenerateSpan([47])]])).isfinite().all()  # 1024 text ids, 48 codes
    many = janus(with_tokenizer(CONFIG, num_ids=1100))
    document = [TextSpan([1000]), GenerateSpan([1099])]
    torch.testing.assert_close(many.embed(collate([document]))[0], embed_slowly(many, document), rtol=1e-4, atol=1e-5)


def test_heads_have_their_own_sizes(model):
    hidden = torch.randn(2, 3, CONFIG.language_model.width)
    assert model.heads[Kind.TEXT](hidden).shape == (2, 3, CONFIG.language_model.vocab_size)
    assert model.heads[Kind.GENERATE](hidden).shape == (2, 3, CONFIG.generation.num_ids)


def test_generation_embedding_starts_as_the_codebook():
    fresh = Janus(CONFIG)
    torch.testing.assert_close(fresh.generation.embedding.weight, fresh.generation.tokenizer.codes())
    with torch.no_grad():
        fresh.generation.tokenizer.codebook.weight.normal_()
    fresh.generation.start_from_tokenizer()
    torch.testing.assert_close(fresh.generation.embedding.weight.norm(dim=1), torch.ones(48))


def test_begin_of_image_predicts_the_first_image_id(model):
    batch = collate([[TextSpan([5, 6]), GenerateSpan(IDS, loss=True)]])
    assert batch.target_kind[0].tolist() == [Kind.PAD] + [Kind.GENERATE] * 16 + [Kind.PAD]
    logits = model.heads[Kind.GENERATE](model(batch))[0, 1:17]
    losses = torch.nn.functional.cross_entropy(logits, batch.target[0, 1:17], reduction="none")
    by_hand = torch.stack([-logits[i].log_softmax(-1)[IDS[i]] for i in range(16)])
    torch.testing.assert_close(losses, by_hand)


def test_a_picture_may_be_anywhere_in_a_span(model):
    assert isinstance(DOCUMENTS["look"][1], UnderstandSpan)
    one, other = DOCUMENTS["look"], [*DOCUMENTS["look"][:1], picture_span(9), *DOCUMENTS["look"][2:]]
    assert not torch.allclose(model(collate([one]))[:, -1], model(collate([other]))[:, -1], atol=1e-3)


@pytest.mark.parametrize("wrong", [VISION_ENCODER.num_features - 1, VISION_ENCODER.num_features + 1, 0])
def test_pictures_that_do_not_fill_their_positions_are_refused(model, wrong):
    document = [TextSpan([5]), UnderstandSpan(picture_span(1).pixels, wrong), TextSpan([6])]
    with pytest.raises(ValueError, match=f"1 pictures of 4 features each, but {wrong} positions.*num_features"):
        model.embed(collate([document]))


def test_positions_of_pictures_without_pictures_are_refused(model):
    batch = replace(collate([DOCUMENTS["look"]]), pixels=None)
    with pytest.raises(ValueError, match="0 pictures of 4 features each, but 4 positions"):
        model.embed(batch)
