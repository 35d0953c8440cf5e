"""Files of image ids: whole ids, and only for the image tokenizer that made them."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from openjanus.data.image_ids import ImageIds, fingerprint
from openjanus.data.sources import SOURCES
from openjanus.model.image_tokenizer import ImageTokenizer
from openjanus.processing.processor import Message
from openjanus.recipes.tokenizing import tokenize_source
from tests import tiny


class Stranger(nn.Module):
    """An image tokenizer whose parameters have names of their own; it gives the ids that it is told."""

    def __init__(self, ids: list[int]):
        super().__init__()
        self.config = tiny.IMAGE_TOKENIZER
        self.table = nn.Parameter(torch.tensor(ids, dtype=torch.float64))

    def encode(self, pixels: Tensor) -> Tensor:
        return self.table.long().expand(len(pixels), -1)


def image_tokenizer() -> ImageTokenizer:
    torch.manual_seed(0)
    return ImageTokenizer(tiny.IMAGE_TOKENIZER)


@pytest.mark.parametrize(("largest", "dtype"), [(65535, "uint16"), (65536, "int32"), (150_000, "int32")])
def test_large_ids_are_stored_whole(largest, dtype, tmp_path) -> None:
    tokenizer = Stranger([3, largest])
    tokenize_source(tokenizer, "emoji.drawings", 0, 2, tmp_path / "ids")  # type: ignore[arg-type]
    image_ids = ImageIds.read(str(tmp_path / "ids"))
    image_ids.check(tokenizer)
    assert image_ids[1].tolist() == [3, largest] and image_ids[1].dtype == np.int64
    assert image_ids.ids.dtype == dtype


def test_every_tensor_decides_the_fingerprint_whatever_its_name() -> None:
    tokenizer = image_tokenizer()
    found = {fingerprint(tokenizer)}
    for parameter in tokenizer.parameters():
        with torch.no_grad():
            parameter.flatten()[-1] += 1
        found.add(fingerprint(tokenizer))
    assert len(found) == 1 + len(list(tokenizer.parameters()))
    assert fingerprint(Stranger([1, 2])) != fingerprint(Stranger([2, 1]))
    assert fingerprint(Stranger([1, 2])) == fingerprint(Stranger([1, 2]))


def test_a_tokenizer_that_has_no_tensors_has_no_fingerprint() -> None:
    with pytest.raises(ValueError, match="Identity has no tensors"):
        fingerprint(nn.Identity())


def write_former_file(path: Path, tokenizer: nn.Module) -> None:
    """A file as it was written when the fingerprint was one of the encoder's side only."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tokenizer.state_dict().items()):
        if name.startswith(("encoder.", "to_code.", "codebook.")):
            digest.update(tensor.numpy().tobytes())
    meta = {"source": "emoji.drawings", "seed": "3", "tokenizer": digest.hexdigest()[:16]}
    save_file({"ids": np.arange(32, dtype=np.uint16).reshape(2, 16)}, path, meta)


def test_files_made_before_still_load_for_their_tokenizer_only(tmp_path) -> None:
    path, tokenizer = tmp_path / "ids", image_tokenizer()
    write_former_file(path, tokenizer)
    image_ids = ImageIds.read(str(path))
    image_ids.check(tokenizer)
    assert (image_ids[1].tolist(), image_ids.seed) == (list(range(16, 32)), 3)
    with pytest.raises(ValueError, match="another image tokenizer"):
        image_ids.check(tiny.shake(image_tokenizer()))
    write_former_file(path, Stranger([1]))  # hashed nothing, so that any tokenizer of its class fitted
    with pytest.raises(ValueError, match="another image tokenizer"):
        ImageIds.read(str(path)).check(Stranger([1]))


def test_a_file_of_something_else_is_refused(tmp_path) -> None:
    save_file({"ids": np.zeros((1, 16), np.uint16)}, tmp_path / "ids")
    with pytest.raises(ValueError, match="not a file of `openjanus tokenize`"):
        ImageIds.read(str(tmp_path / "ids"))


@pytest.mark.parametrize("num_drawings", [0, 2])
def test_an_example_without_exactly_one_drawing_is_named(num_drawings, tmp_path, monkeypatch) -> None:
    picture = Image.new("RGB", (16, 16))
    conversation = [Message("user", ["draw"]), Message("assistant", [picture] * num_drawings)]
    monkeypatch.setitem(SOURCES, "odd", (lambda split, seed: lambda index: conversation, "conversations"))
    with pytest.raises(
        ValueError, match=f"example 0 of odd has {num_drawings} drawings of the assistant, expected one"
    ):
        tokenize_source(image_tokenizer(), "odd", 0, 1, tmp_path / "ids")
    with pytest.raises(ValueError, match="num is 0, expected 1 or more"):
        tokenize_source(image_tokenizer(), "emoji.drawings", 0, 0, tmp_path / "ids")
    assert not list(tmp_path.iterdir())


def test_a_file_names_its_source_seed_and_tokenizer(tmp_path) -> None:
    tokenizer = image_tokenizer()
    tokenize_source(tokenizer, "emoji.drawings", 5, 3, tmp_path / "ids")
    with safe_open(tmp_path / "ids", "np") as file:
        assert file.metadata() == {"source": "emoji.drawings", "seed": "5", "tokenizer": fingerprint(tokenizer)}
    image_ids = ImageIds.read(str(tmp_path / "ids"))
    assert (image_ids.source, image_ids.seed, len(image_ids)) == ("emoji.drawings", 5, 3)
