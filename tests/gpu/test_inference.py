"""Drawing and answering on a GPU: graphs, every form of weights, and a step for which the host need not wait."""

import random
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from openjanus.inference import graphs
from openjanus.inference.engine import Engine, load
from openjanus.inference.graphs import CudaRecorder, GraphedLayers
from openjanus.inference.sampling import SamplingOptions
from openjanus.model.attention import rotary_table
from openjanus.processing.processor import Message, ProcessorConfig
from openjanus.runtime import WEIGHTS, Runtime
from openjanus.sequence import Kind, collate
from openjanus.starting.towers import read_tower
from openjanus.testing import tiny_checkpoint
from openjanus.weights import checkpoint
from openjanus.weights.config import Checkpoint
from tests import tiny
from tests.inference.test_graphs import recorder, together
from tests.towers import make_tower

pytestmark = pytest.mark.gpu
QUESTION = Message("user", [Image.new("RGB", (64, 64), "red"), "what is it?"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(params=["float32", "bfloat16"])
def engine(folder, request) -> Engine:
    engine = load(folder, "cuda", request.param)
    engine.tasks = ("talk", "draw", "edit")  # as tests.inference.test_graphs needs it
    return engine


def all_equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("chunk_tokens", [3, 256])
def test_graphs_give_the_ids_of_the_same_steps_without_graphs(engine, chunk_tokens, monkeypatch) -> None:
    """Requests of both kinds join, leave and move, in graphs of many sizes."""
    monkeypatch.setattr(graphs, "REACH", 16)
    model = engine.model.language_model
    assert isinstance(model.decode, GraphedLayers) and model.decode.recorder is CudaRecorder
    recorded = together(engine, chunk_tokens)
    assert all_equal(recorded, together(engine, chunk_tokens))  # other graphs, of another cache
    model.decode = GraphedLayers(model, recorder)
    assert all_equal(recorded, together(engine, chunk_tokens))


def test_graphs_give_the_hidden_states_of_plain_steps(folder) -> None:
    """Of the very rows, without rounding their number up."""
    model = load(folder, "cuda", "float32").model.language_model
    layers, cache = model.decode, model.make_cache(8, 300)
    assert isinstance(layers, GraphedLayers)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for lengths in ([5], [250, 7, 90], [1, 2, 3, 4, 5], [299] * 8):
            for part in (cache.keys, cache.values):
                part.copy_(torch.randn(part.shape, generator=generator))
            position = torch.tensor(lengths, device="cuda")[:, None]
            x = torch.randn(len(lengths), 1, model.config.width, generator=generator).cuda()
            angles = rotary_table(position, model.config.head_width, model.config.rope_theta)
            rows = cache.rows(0, len(lengths), position, max(lengths) + 1)
            recorded = layers(x, *angles, rows).clone()
            plain = graphs.run_layers(model, x, *angles, rows)
            torch.testing.assert_close(recorded, plain, rtol=1e-4, atol=1e-4)


def test_all_graphs_of_a_cache_share_one_pool_of_memory(folder, monkeypatch) -> None:
    monkeypatch.setattr(graphs, "REACH", 16)
    model = load(folder, "cuda", "float32").model.language_model
    layers, cache = model.decode, model.make_cache(32, 300)
    assert isinstance(layers, GraphedLayers)

    def step(num_rows: int, length: int) -> None:
        position = torch.full((num_rows, 1), length, device="cuda")
        x = torch.zeros(num_rows, 1, model.config.width, device="cuda")
        angles = rotary_table(position, model.config.head_width, model.config.rope_theta)
        layers(x, *angles, cache.rows(0, num_rows, position, length + 1))

    with torch.inference_mode():
        step(32, 299)
        torch.cuda.synchronize()
        reserved = torch.cuda.memory_reserved()
        for num_rows in (1, 2, 4, 8, 16, 32):
            for length in range(0, 300, 16):
                step(num_rows, length)
    assert len(layers.graphs[cache].by_shape) > 100
    assert torch.cuda.memory_reserved() - reserved < 32 * 2**20  # a pool for each would take 2 MiB and more each


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_second_gpu_records_its_own_graphs(folder) -> None:
    first, second = load(folder, "cuda:0", "float32"), load(folder, "cuda:1", "float32")
    expected = together(first)
    assert torch.cuda.current_device() == 0
    got = together(second)
    assert {ids.device for ids in got} == {torch.device("cuda:1")}
    assert all_equal([ids.cpu() for ids in expected], [ids.cpu() for ids in got])


def test_graphs_are_recorded_beside_a_thread_that_decodes_pictures(engine) -> None:
    expected, ids = together(engine), engine.generate_ids("a red cat", n=4, seed=1)
    stop, errors = threading.Event(), []
    sizes = random.Random(0)

    def decode() -> None:
        try:
            while not stop.is_set():
                assert len(engine.decode_images(ids)) == 4
                with graphs.recording_lock:  # new memory at every turn
                    torch.empty(sizes.randrange(2**20, 2**26), device="cuda").zero_().sum().item()
                    torch.cuda.empty_cache()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=decode)
    thread.start()
    try:
        for _ in range(5):  # each has a cache and graphs of its own
            assert all_equal(together(engine), expected)
    finally:
        stop.set()
        thread.join()
    assert not errors


@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_form_of_weights_draws_and_answers(folder, weights) -> None:
    engine = load(folder, "cuda", weights)
    drawn = [engine.generate("two red apples", n=2, seed=1)[1].tobytes() for _ in range(2)]
    assert drawn[0] == drawn[1]
    answers = [engine.ask(Image.new("RGB", (64, 64), "red"), "what is it?", max_new_tokens=8) for _ in range(2)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("weights", "bound"), [("float32", 0.01), ("bfloat16", 0.05), ("float16", 0.05), ("int8", 0.08), ("int4", 0.5)]
)
def test_logits_stay_near_those_of_the_cpu(folder, weights, bound) -> None:
    """Of both heads behind a picture and a question, in standard deviations."""
    exact, engine = load(folder, "cpu", "float32"), load(folder, "cuda", weights)
    batch = collate([exact.processor.prompt([QUESTION])])
    with torch.inference_mode():
        for kind in (Kind.TEXT, Kind.GENERATE):
            expected = exact.model.heads[kind](exact.model(batch))
            got = engine.model.heads[kind](engine.model(batch.to("cuda"))).float().cpu()
            assert (got - expected).square().mean().sqrt() < bound * expected.std()


def test_a_seed_draws_on_a_gpu_what_it_draws_on_a_cpu() -> None:
    """In float32, but where two ids are equally good to the last bit."""
    prompts = ["a red apple", "two blue cats", "a dog", "a green heart"]
    expected, got = (load("nano", device, "float32").generate_ids(prompts, seed=1).cpu() for device in ("cpu", "cuda"))
    assert (expected == got).all(dim=1).sum() >= 3


def test_speculation_draws_the_pictures_of_the_plain_loop() -> None:
    engine = load("nano", "cuda", "float32")
    prompts = ["a red apple", "two blue cats", "a dog", "a green heart"]
    plain, speculative = (engine.generate_ids(prompts, seed=1, speculative=window) for window in (0, 8))
    assert (plain == speculative).all(dim=1).sum() >= 3


def test_the_host_waits_for_no_step_of_drawings_and_once_for_one_with_answers(engine) -> None:
    options = SamplingOptions(guidance=3.0, n=2, top_k=5, top_p=0.9)
    scheduler = engine.scheduler(12, 300)
    for prompt in ("a cat", "a dog"):
        scheduler.submit(engine.drawing(prompt, options))
    for _ in range(3):
        scheduler.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            assert scheduler.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for temperature in (0.0, 1.0):
        scheduler.submit(engine.answer([QUESTION], SamplingOptions(temperature=temperature), 50))
    for _ in range(3):
        scheduler.step()
    assert len(scheduler.running) == 4 and len(scheduler.running[0].ids) < 14
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scheduler.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([w for w in caught if "synchronizing" in str(w.message)]) == 1


def test_a_number_that_no_gpu_has_is_one_line() -> None:
    count = torch.cuda.device_count()
    with pytest.raises(ValueError, match=f"device 'cuda:{count}' is not available here: there is cuda:0"):
        Runtime.choose(f"cuda:{count}")
    assert Runtime.choose("cuda:0").device == torch.device("cuda:0")


def test_a_server_draws_shows_and_answers_on_a_gpu(folder) -> None:
    pytest.importorskip("fastapi", reason="needs the serve extra")
    pytest.importorskip("openai", reason="needs the client")
    from tests.serve.conftest import run_server

    with run_server(load(folder, "cuda")) as running:
        client = running.client()
        events = [
            event.type
            for event in client.images.generate(
                model="tiny", prompt="a red cat", stream=True, partial_images=2, extra_body={"seed": 1}
            )
        ]
        assert events[-1] == "image_generation.completed"
        assert set(events[:-1]) <= {"image_generation.partial_image"}  # skipped where drawing is faster than showing
        answer = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "what is it?"}], max_completion_tokens=8
        )
        assert answer.usage is not None and answer.usage.completion_tokens > 0


@pytest.mark.parametrize("name", ["clip", "dinov3"])
@torch.inference_mode()
def test_a_vision_tower_sees_on_the_gpu_what_it_sees_on_the_cpu(name, tmp_path) -> None:
    """Its tables, which no file holds, come along."""
    make_tower(name, tmp_path / "tower")
    eye, pixels = read_tower(str(tmp_path / "tower"), layer=-2)
    config = replace(tiny.CONFIG, understanding=eye)
    processor = tiny.processor(ProcessorConfig(pixels), config.num_features)
    checkpoint.save(Checkpoint(tiny.janus(config), processor, {}), tmp_path / "model")
    batch = collate([processor.prompt([QUESTION])])
    expected = load(tmp_path / "model", "cpu", "float32").model.embed(batch)
    for weights, bound in (("float32", 1e-3), ("bfloat16", 0.05), ("int8", 0.05)):
        seen = load(tmp_path / "model", "cuda", weights).model.embed(batch.to("cuda")).float().cpu()
        assert (seen - expected).norm() / expected.norm() < bound
