"""Documents, targets and batches: by hand for small ones, lossless for many."""

import pytest
import torch

from openjanus.sequence import (
    Batch,
    Document,
    GenerateSpan,
    Kind,
    TextSpan,
    UnderstandSpan,
    collate,
    find_rows,
    lay_out,
    num_tokens,
    pack,
)
from tests.tiny import picture_span

P, T, U, G = Kind.PAD, Kind.TEXT, Kind.UNDERSTAND, Kind.GENERATE
BOS, BOI, EOI, EOS = 1, 3, 4, 2


def random_documents(count: int) -> list[Document]:
    """Documents of all kinds and lengths 1 to 23, each with ids of its own."""
    documents: list[Document] = []
    for i in range(count):
        spans: Document = [TextSpan([100 * i + j for j in range(1 + i % 5)])]
        if i % 3 == 0:
            spans.append(picture_span(i))
        if i % 2 == 0:
            spans += [GenerateSpan([100 * i + 50 + j for j in range(6)], loss=True), TextSpan([EOI, EOS], loss=True)]
        if i % 6 == 0:
            spans.append(picture_span(1000 + i))
        documents.append(spans)
    return documents


def columns(batch: Batch, b: int, number: int) -> list[tuple[int, ...]]:
    """All that a batch holds of one document, position by position."""
    here = batch.document[b] == number
    names = ("tokens", "kind", "position", "target", "target_kind")
    return list(zip(*(getattr(batch, name)[b, here].tolist() for name in names), strict=True))


def test_targets_by_hand():
    document = [TextSpan([BOS, 10, 11]), TextSpan([BOI]), GenerateSpan([17, 903], loss=True), TextSpan([EOI, EOS])]
    batch = pack([document], row_tokens=9)
    assert batch.tokens.tolist() == [[BOS, 10, 11, BOI, 17, 903, EOI, EOS, 0]]
    assert batch.kind.tolist() == [[T, T, T, T, G, G, T, T, P]]
    assert batch.target.tolist() == [[0, 0, 0, 17, 903, 0, 0, 0, 0]]  # <begin_of_image> predicts the first id
    assert batch.target_kind.tolist() == [[P, P, P, G, G, P, P, P, P]]
    assert batch.position.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 0]]
    assert batch.document.tolist() == [[0] * 8 + [-1]]
    assert batch.num_targets() == 2 and batch.pixels is None


def test_targets_of_an_answer_about_a_picture():
    document = [TextSpan([BOS]), picture_span(), TextSpan([20]), TextSpan([30, EOS], loss=True), TextSpan([21])]
    batch = pack([document], row_tokens=9)
    assert batch.tokens.tolist() == [[BOS, 0, 0, 0, 0, 20, 30, EOS, 21]]
    assert batch.kind.tolist() == [[T, U, U, U, U, T, T, T, T]]
    assert batch.target.tolist() == [[0, 0, 0, 0, 0, 30, EOS, 0, 0]]
    assert batch.target_kind.tolist() == [[P, P, P, P, P, T, T, P, P]]


def test_a_picture_feature_may_predict():
    batch = pack([[picture_span(), TextSpan([9], loss=True)]], row_tokens=5)
    assert batch.target[0].tolist() == [0, 0, 0, 9, 0] and batch.target_kind[0].tolist() == [P, P, P, T, P]


def test_nothing_predicts_the_first_id_of_a_document():
    batch = pack([[TextSpan([7, 8, 9], loss=True)]], row_tokens=3)
    assert batch.target.tolist() == [[8, 9, 0]] and batch.num_targets() == 2
    assert pack([[TextSpan([7], loss=True)]], row_tokens=1).num_targets() == 0


def test_no_target_crosses_into_the_next_document():
    batch = pack([[TextSpan([1, 2, 3], loss=True)], [TextSpan([4, 5], loss=True)]], row_tokens=5)
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 5]]
    assert batch.target.tolist() == [[2, 3, 0, 5, 0]]
    assert batch.target_kind.tolist() == [[T, T, P, T, P]]
    assert batch.position.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.document.tolist() == [[0, 0, 0, 1, 1]]


def test_pack_loses_nothing_and_mixes_nothing():
    documents = random_documents(40)
    batch = pack(documents, row_tokens=24)
    alone = sorted(columns(pack([d], num_tokens(d)), 0, 0) for d in documents)
    packed = sorted(
        columns(batch, b, number)
        for b in range(len(batch.tokens))
        for number in range(int(batch.document[b].max()) + 1)
    )
    assert packed == alone
    used = int((batch.document >= 0).sum())
    assert used == sum(map(num_tokens, documents))
    assert len(batch.tokens) <= 1.3 * used / 24  # and wastes little room


def test_packed_documents_lie_in_one_piece():
    batch = pack(random_documents(40), row_tokens=24)
    for row in batch.document.tolist():
        real = [number for number in row if number >= 0]
        assert row == real + [-1] * (24 - len(real))
        assert real == sorted(real)


def test_padding_carries_nothing():
    batch = pack(random_documents(7), row_tokens=30)
    empty = batch.document == -1
    assert empty.any()
    for name in ("tokens", "kind", "position", "target", "target_kind"):
        assert (getattr(batch, name)[empty] == 0).all()


def test_pictures_come_in_reading_order():
    documents = random_documents(12)
    batch = pack(documents, row_tokens=24)
    by_first_id = {d[0].ids[0]: d for d in documents}
    wanted = []
    for b in range(len(batch.tokens)):
        for number in range(int(batch.document[b].max()) + 1):
            first = int(batch.tokens[b, batch.document[b] == number][0])
            wanted += [span.pixels for span in by_first_id[first] if isinstance(span, UnderstandSpan)]
    assert torch.equal(batch.pixels, torch.stack(wanted))


def test_a_document_longer_than_a_row_is_an_error():
    with pytest.raises(ValueError, match="a document of 6 positions does not fit a row of 5: raise row_tokens"):
        pack([[TextSpan([1])], [TextSpan([1, 2]), picture_span()]], row_tokens=5)


def texts_of(*lengths: int) -> list[Document]:
    return [[TextSpan([5] * length)] for length in lengths]


@pytest.mark.parametrize(
    ("lengths", "row_tokens", "used"),
    [
        ((6, 5, 3, 2), 16, [16]),
        ((6, 5, 3, 2), 12, [8, 8]),  # first-fit would have filled one row: 11 and 5
        ((9, 5, 5), 11, [9, 10]),
        ((7, 7, 7, 6, 6), 20, [14, 19]),
        ((6, 6, 4, 4, 4), 12, [12, 12]),  # only first-fit finds room: 6+6 and 4+4+4
        ((), 8, []),
    ],
)
def test_rows_are_few_and_evenly_filled(lengths, row_tokens, used):
    rows = find_rows(texts_of(*lengths), row_tokens)
    assert sorted(sum(map(num_tokens, row)) for row in rows) == used
    assert sorted(num_tokens(document) for row in rows for document in row) == sorted(lengths)


def cut_apart(documents: list[Document], row_tokens: int, num_rows: int) -> list[Batch]:
    rows = find_rows(documents, row_tokens)
    return [lay_out(rows[start : start + num_rows], row_tokens) for start in range(0, len(rows), num_rows)]


@pytest.mark.parametrize("cut", [1, 2, 3, 100])
def test_rows_take_their_own_pictures_along(cut):
    batch = pack(random_documents(20), row_tokens=24)
    parts = cut_apart(random_documents(20), 24, cut)
    for part in parts:
        seen = int((part.kind == U).sum()) // 4
        assert seen == (0 if part.pixels is None else len(part.pixels))
    for name in ("tokens", "kind", "position", "document", "target", "target_kind"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    assert torch.equal(torch.cat([part.pixels for part in parts if part.pixels is not None]), batch.pixels)


def places_slowly(kinds: torch.Tensor) -> dict[Kind, list[int]]:
    found: dict[Kind, list[int]] = {}
    for place, kind in enumerate(kinds.flatten().tolist()):
        if kind != P:
            found.setdefault(Kind(kind), []).append(place)
    return found


@pytest.mark.parametrize("cut", [1, 3, 100])
def test_a_batch_and_its_rows_list_where_each_kind_and_each_target_is(cut):
    batch = pack(random_documents(20), row_tokens=24)
    for part in (batch, *cut_apart(random_documents(20), 24, cut)):
        assert {kind: places.tolist() for kind, places in part.places.items()} == places_slowly(part.kind)
        assert {kind: places.tolist() for kind, places in part.targets.items()} == places_slowly(part.target_kind)
        assert part.num_targets() == int((part.target_kind != P).sum())
        assert sum(part.drawings) == len(part.places.get(G, ())) and set(part.drawings) <= {6}


def test_drawings_are_counted_one_by_one_even_side_by_side():
    documents = [[GenerateSpan([1, 2]), GenerateSpan([3])], [GenerateSpan([]), TextSpan([4])], [GenerateSpan([5] * 4)]]
    batch = pack(documents, row_tokens=4)
    assert batch.drawings == (4, 2, 1)  # the longest document comes first
    assert [part.drawings for part in cut_apart(documents, 4, 1)] == [(4,), (2, 1)]


def test_a_document_a_row():
    batch = collate([[TextSpan([5, 6]), GenerateSpan([7])], [TextSpan([8, 9, 10])]])
    assert batch.tokens.tolist() == [[5, 6, 7], [8, 9, 10]]
    assert batch.kind.tolist() == [[T, T, G], [T, T, T]]
    assert batch.position.tolist() == [[0, 1, 2]] * 2 and batch.document.tolist() == [[0, 0, 0]] * 2
    with pytest.raises(AssertionError, match=r"documents of \[1, 3\] positions, expected one length"):
        collate([[TextSpan([5, 6, 7])], [TextSpan([8])]])


def test_rows_are_padded_at_their_ends():
    batch = lay_out([[[TextSpan([5])], [TextSpan([6, 7])]], [[TextSpan([8])]]], 4)
    assert batch.tokens.tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]
    assert batch.position.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]
    assert batch.document.tolist() == [[0, 1, 1, -1], [0, -1, -1, -1]]


def test_to_keeps_all_fields():
    batch = pack([[TextSpan([5]), picture_span()]], row_tokens=6)
    moved = batch.to("meta")
    assert moved.tokens.device.type == moved.pixels.device.type == moved.target_kind.device.type == "meta"
    assert {kind: places.device.type for kind, places in moved.places.items()} == {T: "meta", U: "meta"}
    assert pack([[TextSpan([5])]], row_tokens=1).to("meta").pixels is None
