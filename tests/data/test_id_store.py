"""Ids of users' pictures: equal to the tokenizer's, encoded once, kept in shards, apart for each tokenizer."""

import numpy as np
import pytest
import torch

from openjanus.data.id_store import IdStore
from openjanus.data.image_ids import encode
from tests import tiny
from tests.readers.files import picture


@pytest.fixture
def tokenizer():
    return tiny.checkpoint().model.generation.tokenizer


def test_ids_are_the_tokenizers_and_each_picture_is_encoded_once(tokenizer, tmp_path) -> None:
    pictures = [picture(n % 5, (30 + n % 5, 20)) for n in range(8)]
    store = IdStore(tokenizer, tmp_path)
    ids = store(pictures)
    for row, image in zip(ids, pictures, strict=True):
        assert row.dtype == np.int64 and np.array_equal(row, encode(tokenizer, [image])[0])
    assert store.encoded == len(store) == 5
    store(pictures)
    assert store.encoded == 5


def test_they_are_kept_for_the_next_run_and_by_several_processes(tokenizer, tmp_path) -> None:
    one, two = IdStore(tokenizer, tmp_path), IdStore(tokenizer, tmp_path)
    first, second = one([picture(1), picture(2)]), two([picture(2), picture(3)])
    one.flush()
    two.flush()
    one.flush()  # nothing new: no file
    assert len(list(tmp_path.rglob("*"))) == 3  # the folder of the tokenizer and two shards
    later = IdStore(tokenizer, tmp_path)
    again = later([picture(1), picture(2), picture(3)])
    assert later.encoded == 0 and len(later) == 3
    assert np.array_equal(np.stack(again), np.stack([*first, second[1]]))


def test_another_tokenizer_does_not_get_them(tokenizer, tmp_path) -> None:
    store = IdStore(tokenizer, tmp_path)
    store([picture(1)])
    store.flush()
    with torch.no_grad():
        tokenizer.codebook.weight.neg_()
    other = IdStore(tokenizer, tmp_path)
    assert len(other) == 0


def test_a_damaged_shard_is_named(tokenizer, tmp_path) -> None:
    store = IdStore(tokenizer, tmp_path)
    store([picture(1)])
    store.flush()
    (shard,) = tmp_path.rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"damaged .*; delete it, and its pictures are encoded again"):
        IdStore(tokenizer, tmp_path)


def test_shards_are_written_on_the_way(tokenizer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("openjanus.data.id_store.SHARD", 4)
    store = IdStore(tokenizer, tmp_path)
    for n in range(10):
        store([picture(n)])
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2 and len(store) == 10
