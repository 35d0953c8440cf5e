"""The logits of a tiny checkpoint, teacher-forced, are those stored in stored_logits.json: neither the forward pass nor
the names and the files of a checkpoint may change what a trained model says.

Logits here are about 1 in size, log-probabilities up to 8. Another order of summation (another CPU, another version of
torch, the kernels) changes them by some 2e-6, so TOLERANCE leaves a factor of fifty. A wrong mask or wrong positions
change them by about 1.
"""

import json
import zlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from openjanus.inference.body import prepare
from openjanus.inference.quantisation import placer
from openjanus.model.janus import Janus
from openjanus.processing.image import PixelConfig
from openjanus.processing.processor import ProcessorConfig
from openjanus.runtime import Runtime
from openjanus.sequence import Batch, Document, GenerateSpan, Kind, TextSpan, UnderstandSpan, pack
from openjanus.testing import TINY
from openjanus.weights import checkpoint
from openjanus.weights.config import Checkpoint
from openjanus.weights.hub import find_checkpoint
from tests import tiny

STORED = Path(__file__).with_name("stored_logits.json")
TOLERANCE = 1e-4
COLUMNS = {"text": slice(None, None, 136), "image": slice(None, None, 12)}  # of the logits of a position: eight


def weights() -> Janus:
    """Uniform noise, which is exact on every machine. A tensor's seed is its name, so the order of parts is free."""
    model = Janus(TINY).eval().requires_grad_(False)
    generator = torch.Generator()
    for name, p in model.named_parameters():
        generator.manual_seed(zlib.crc32(name.encode()))
        noise = torch.rand(p.shape, generator=generator) - 0.5
        if p.dim() == 1:
            p.copy_(0.3 * noise + name.endswith("weight"))
        else:
            p.copy_(noise * (12 / p[0].numel()) ** 0.5)
    return model


def documents() -> list[Document]:
    """A question about a picture with its answer, and a prompt with its drawing; all 24 answers are supervised."""
    pixels = torch.linspace(-1, 1, 3 * 64 * 64).view(3, 64, 64)
    ask = [TextSpan([1, 40, 41]), UnderstandSpan(pixels, 16), TextSpan([50, 51, 3])]
    answer = TextSpan([60, 700, 62, 1000, 64, 900, 66, 2], loss=True)
    drawn = GenerateSpan([7 * i % 96 for i in range(16)], loss=True)
    return [[*ask, answer], [TextSpan([1, 70, 71, 72, 3]), drawn]]


def compared(model: Janus, hidden: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Of each supervised position: the log-probability of its target, and some of its logits."""
    found = {}
    for name, kind in (("text", Kind.TEXT), ("image", Kind.GENERATE)):
        supervised = batch.targets[kind]
        logits = model.heads[kind](hidden.flatten(0, 1)[supervised])
        log_probability = logits.log_softmax(dim=-1).gather(-1, batch.target.flatten()[supervised][:, None])
        found[name] = torch.cat((log_probability, logits[:, COLUMNS[name]]), dim=-1)
    return found


def at_once(model: Janus, batch: Batch) -> Tensor:
    return model(batch)


def continued(model: Janus, batch: Batch) -> Tensor:
    """All but the last nine positions of a row, then four at once, then one after the other."""
    x, body, hidden, T = model.embed(batch), model.language_model, [], batch.tokens.shape[1]
    cache = body.make_cache(len(x), T)
    for start, stop in ((0, T - 9), (T - 9, T - 5), *((t, t + 1) for t in range(T - 5, T))):
        position = torch.arange(start, stop).expand(len(x), -1)
        hidden.append(body(x[:, start:stop], position, cache=cache.rows(0, len(x), position, stop)))
    return torch.cat(hidden, dim=1)


@pytest.mark.parametrize("for_inference", [False, True])
@pytest.mark.parametrize("forward", [at_once, continued])
def test_logits_are_the_stored_ones(for_inference, forward, tmp_path) -> None:
    processor = tiny.processor(ProcessorConfig(PixelConfig(64)), TINY.num_features)
    checkpoint.save(Checkpoint(weights(), processor, {}), tmp_path / "model")
    runtime = Runtime.choose("cpu", "float32")
    place = placer(runtime) if for_inference else None
    model = checkpoint.load(find_checkpoint(tmp_path / "model"), place=place).model
    if for_inference:
        prepare(model, runtime)
    batch = pack(documents(), 30)  # each document has a row of its own
    with torch.inference_mode():
        found = compared(model, forward(model, batch), batch)
    for name, rows in json.loads(STORED.read_text()).items():
        torch.testing.assert_close(found[name], torch.tensor(rows), rtol=TOLERANCE, atol=TOLERANCE)
