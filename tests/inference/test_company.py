"""A request gets the same logits, bit for bit, alone and in any company: in every form of the weights, with 1, 2 and 4
threads. The same ids would be a weaker test: most last bits never show in an id."""

import random
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import Tensor

from openjanus.inference.engine import Engine, load
from openjanus.inference.quantisation import LINEAR
from openjanus.inference.sampling import Sampler, SamplingOptions
from openjanus.inference.scheduler import Request, Scheduler
from openjanus.inference.speculative import Speculation
from openjanus.processing.processor import Message
from openjanus.sequence import Kind, TextSpan
from openjanus.testing import tiny_checkpoint
from openjanus.weights import checkpoint
from tests import tiny

pytestmark = pytest.mark.usefixtures("compiled_kernels")
THREADS = pytest.mark.parametrize("num_threads", [1, 2, 4])
WORDS = "a two three red green blue cat dog apple heart and on under beside grass".split()  # noqa: SIM905
CHUNK_TOKENS = 40  # prompts have several chunks; longer than `MAX_DECODE`, so that both ways to compute one are taken


@pytest.fixture(scope="module", params=LINEAR)
def engine(request, tmp_path_factory) -> Engine:
    return load(tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"), "cpu", request.param)


class Recorder(Sampler):
    """A sampler that remembers what it chose from."""

    def __init__(self, options: SamplingOptions, rows: range):
        super().__init__(options, rows)
        self.logits: list[Tensor] = []

    def choose(self, logits: Tensor) -> Tensor:
        self.logits.append(logits.clone())
        return super().choose(logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        if logits.dim() == 3:  # a window of `Speculation`: [n, T, V]
            self.logits.append(logits.clone())
        return super().probabilities(logits)


def make_request(engine: Engine, rng: random.Random, draw: bool) -> Request:
    """A drawing or an answer, with a prompt of one chunk or of several."""
    words = " ".join(rng.choices(WORDS, k=rng.choice([1, 5, 20, 30])))
    guidance = rng.choice([1.0, 4.0])
    options = SamplingOptions(temperature=1.0, guidance=guidance, seed=rng.randrange(99), n=rng.choice([1, 2, 6]))
    if draw:
        return engine.drawing(words, options)
    size = (engine.model.config.understanding_size_px,) * 2
    pictures = [Image.new("RGB", size, rng.choice(["red", "blue"])) for _ in range(rng.randint(0, 2))]
    return engine.answer([Message("user", [*pictures, words])], options, rng.randint(1, 12))


def three_rows(engine: Engine) -> Request:
    """A drawing with a guidance row between the whole prompt and nothing."""
    options = SamplingOptions(temperature=1.0, guidance=4.0, seed=5, n=2)
    (full,), (nothing,) = engine.drawing("two red cats on grass and a heart", options).documents
    assert isinstance(full, TextSpan) and isinstance(nothing, TextSpan)
    half = len(full.ids) // 2
    documents = [[full], [TextSpan([*nothing.ids[:half], *full.ids[half:]])], [nothing]]
    total = engine.model.config.generation.num_image_ids
    return Request(documents, Kind.GENERATE, total, Sampler(options, range(2)), scales=[4.0, 2.0])


def recorded(request: Request, rows: range | None = None) -> tuple[Request, Recorder]:
    """The same request, not begun; of its pictures only those of the given numbers."""
    rows = range(request.n) if rows is None else rows
    recorder = Recorder(replace(request.sampler.options, n=len(rows)), rows)
    twin = Request(request.documents, request.kind, request.num_new, recorder, request.stop_id, request.scales)
    return twin, recorder


def logits_alone(engine: Engine, request: Request, rows: range | None = None) -> Tensor:
    """[steps, n, V]"""
    twin, recorder = recorded(request, rows)
    scheduler = Scheduler(engine.model, twin.num_rows, twin.num_positions, engine._text_logits, CHUNK_TOKENS)
    scheduler.submit(twin)
    scheduler.run()
    return torch.stack(recorder.logits)


def compare(engine: Engine, num_requests: int, seed: int) -> int:
    """Requests that join at random times get what they get alone. Returns the most rows that ran together."""
    rng = random.Random(seed)
    requests = [make_request(engine, rng, i % 2 == 0) for i in range(num_requests)]
    requests.insert(1, three_rows(engine))
    alone = [logits_alone(engine, request) for request in requests]
    together = Scheduler(engine.model, 40, 192, engine._text_logits, CHUNK_TOKENS)
    recorders, most = [], 0
    for request in requests:
        twin, recorder = recorded(request)
        recorders.append(recorder)
        together.submit(twin)
        if rng.random() < 0.5:
            together.step()
    while together.step():
        most = max(most, len(together.owner))
    for recorder, wanted in zip(recorders, alone, strict=True):
        assert torch.equal(torch.stack(recorder.logits), wanted)
    return most


@pytest.mark.parametrize(("num_threads", "seed"), [(1, 2), (2, 3), (4, 7)])
def test_a_request_gets_the_same_logits_in_any_company(engine, num_threads, seed) -> None:
    torch.set_num_threads(num_threads)
    assert compare(engine, 6, seed) > 16  # rows at once


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_so_it_does_with_a_body_that_no_kernel_fits(tmp_path, weights) -> None:
    """Its heads are 8 wide, its inner layers 48."""
    checkpoint.save(tiny.checkpoint(), tmp_path / "model")
    assert compare(load(tmp_path / "model", "cpu", weights), 5, seed=4) > 2


def test_a_picture_gets_the_same_logits_whatever_pictures_are_drawn_with_it(engine) -> None:
    request = engine.drawing("a red cat", SamplingOptions(guidance=4.0, seed=3, n=5))
    together = logits_alone(engine, request)
    for k in range(5):
        assert torch.equal(logits_alone(engine, request, range(k, k + 1))[:, 0], together[:, k])


@pytest.mark.parametrize(("window", "num_words"), [(2, 1), (7, 20), (40, 5)])
def test_speculation_chooses_from_the_logits_of_the_plain_loop(engine, window, num_words) -> None:
    """Windows longer than `MAX_DECODE`, and prompts that are prefilled in both ways."""
    words = " ".join(WORDS[:num_words])
    request = engine.drawing(words, SamplingOptions(guidance=4.0, seed=5))
    wanted = logits_alone(engine, request)[:, 0]
    twin, recorder = recorded(request)
    speculation, got = Speculation(engine.model, twin, window), []
    while not twin.finished:
        before = len(twin.ids)
        speculation.step()
        got.append(recorder.logits[-1][0, : len(twin.ids) - before])
    assert torch.equal(torch.cat(got), wanted)


@pytest.mark.parametrize("form", LINEAR)
@pytest.mark.parametrize(("O", "K"), [(80, 96), (35, 8), (16, 50)])
@THREADS
def test_a_row_of_a_product_does_not_depend_on_the_others(form, O, K, num_threads) -> None:  # noqa: E741
    torch.set_num_threads(num_threads)
    if O % 16 or K % 32:
        form = "float32"
    layer = LINEAR[form](torch.randn(O, K), torch.randn(O))
    x = torch.randn(140, K)
    alone = torch.cat([layer(x[m : m + 1]) for m in range(len(x))])
    for M in (1, 2, 3, 5, 7, 8, 15, 16, 17, 33, 64, 131, 140):
        assert torch.equal(layer(x[-M:]), alone[-M:])
        assert torch.equal(layer(x[-M:, None]), alone[-M:, None])  # as rows of one position


def test_rows_of_long_sequences_do_not_take_the_way_of_their_number(monkeypatch) -> None:
    """Only the length of a sequence decides between the kernel and a library's product, never the number of rows."""
    layer, calls = LINEAR["float32"](torch.randn(32, 64)), []
    linear = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *given: calls.append(given) or linear(*given))
    for shape in ((64,), (500, 64), (500, 32, 64)):
        layer(torch.randn(shape))
    assert not calls
    layer(torch.randn(1, 33, 64))
    assert len(calls) == 1


def test_gelu_is_that_of_torch_and_the_same_wherever_a_number_stands() -> None:
    x = torch.cat((torch.linspace(-12, 12, 4001), torch.tensor([0.0, -0.0, 1e-30, 100.0, -100.0, torch.inf])))
    got = torch.ops.openjanus.gelu(x)
    wanted = torch.nn.functional.gelu(x.double())
    assert (got - wanted)[:-1].abs().max() < 1e-6 and got[-1] == torch.inf
    near = x.abs() < 1
    assert ((got - wanted).abs() <= 4e-7 * wanted.abs())[near].all()
    for start in (1, 2, 5, 13):
        assert torch.equal(torch.ops.openjanus.gelu(x[start:]), got[start:])
    assert torch.ops.openjanus.gelu(torch.tensor([torch.nan])).isnan().all()
