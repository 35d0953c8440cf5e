"""What a GPU must do, on torch's meta device: tensors have shape and dtype but no content, so reading one is an error.

A GPU is kept busy only if nothing is copied to or from it that the host must wait for; here such copies are counted.
"""

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

from openjanus.inference.engine import Engine
from openjanus.inference.quantisation import placer
from openjanus.inference.sampling import SamplingOptions
from openjanus.inference.scheduler import Request, Scheduler
from openjanus.model.janus import Janus
from openjanus.processing.image import PixelConfig
from openjanus.processing.processor import Message, ProcessorConfig
from openjanus.runtime import Runtime
from openjanus.sequence import Kind
from openjanus.testing import TINY
from openjanus.weights import tensors
from openjanus.weights.checkpoint import stored_tensors
from openjanus.weights.config import Checkpoint
from tests import tiny

DEVICE = torch.device("meta")
WEIGHTS = ("bfloat16", "int8", "int4")


def place_all(weights: str, file_dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> Janus:
    """A model as it is loaded onto a GPU, from a file of that dtype."""
    monkeypatch.setattr(Runtime, "dtype", torch.bfloat16)  # as on CUDA
    monkeypatch.setattr(tensors, "is_finite", lambda tensor: True)  # there are no values to read
    with DEVICE:
        model = Janus(TINY)
    place = placer(Runtime(DEVICE, weights, "a test"))
    for name, tensor in sorted(stored_tensors(model).items(), key=lambda item: item[0].endswith("bias")):
        place(model, name, torch.zeros(tensor.shape, dtype=file_dtype))
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("file_dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_part_computes_in_the_dtype_of_the_device_whatever_the_file_has(weights, file_dtype, monkeypatch) -> None:
    model = place_all(weights, file_dtype, monkeypatch)
    hidden = torch.zeros(2, 64, dtype=torch.bfloat16, device=DEVICE)
    outputs = {
        "eye": model.understanding(torch.zeros(1, 3, 64, 64, dtype=torch.bfloat16, device=DEVICE)),
        "image ids": model.generation(torch.zeros(3, dtype=torch.int64, device=DEVICE)),
        "image head": model.heads[Kind.GENERATE](hidden),
        "text head": model.heads[Kind.TEXT](hidden),
    }
    assert {name: output.dtype for name, output in outputs.items()} == dict.fromkeys(outputs, torch.bfloat16)


class Traffic(TorchFunctionMode):
    """Counts copies between host and device. What is copied to the host reads as zeros."""

    READS = (Tensor.tolist, Tensor.item, Tensor.__int__, Tensor.__bool__, Tensor.__float__, Tensor.cpu, Tensor.numpy)

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0  # by which the host waits for the device
        self.lists = 0  # of Python that become tensors of the device
        self.noise = 0  # from pinned memory: nobody waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.READS and args[0].device == DEVICE:
            self.reads += 1
            return torch.zeros(args[0].shape, dtype=args[0].dtype).tolist()
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            self.lists += 1
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            self.lists += any(isinstance(part, list) for part in index)
        if func is Tensor.to and args[0].device != DEVICE and DEVICE in (*args[1:2], kwargs.get("device")):
            assert kwargs.get("non_blocking")
            self.noise += 1
        return func(*args, **kwargs)


@pytest.fixture
def engine(monkeypatch) -> Engine:
    model = place_all("int8", torch.float32, monkeypatch)
    return Engine(Checkpoint(model, tiny.processor(ProcessorConfig(PixelConfig(64)), 16), {}))


def start(engine: Engine, *requests: Request) -> Scheduler:
    scheduler = engine.scheduler(12, 300)
    with Traffic():
        for request in requests:
            scheduler.submit(request)
        for _ in range(3):
            scheduler.step()
    assert scheduler.running == list(requests)
    return scheduler


def test_a_step_of_drawings_waits_for_nothing(engine) -> None:
    options = SamplingOptions(guidance=3.0, n=2, top_k=5, top_p=0.9)
    greedy = SamplingOptions(guidance=1.0, temperature=0.0)
    scheduler = start(engine, engine.drawing("a cat", options), engine.drawing("a dog", options),
                      engine.drawing("a car", greedy))  # fmt: skip
    for _ in range(5):
        with Traffic() as traffic:
            scheduler.step()
        assert (traffic.reads, traffic.lists, traffic.noise) == (0, 0, 2)


def test_a_step_with_answers_waits_once_for_all_of_them(engine) -> None:
    question = Message("user", [Image.new("RGB", (16, 16)), "what is it?"])
    answers = [engine.answer([question], SamplingOptions(temperature=t), 50) for t in (0.0, 0.0, 1.0)]
    scheduler = start(engine, *answers, engine.drawing("a cat", SamplingOptions(guidance=3.0)))
    for _ in range(5):
        with Traffic() as traffic:
            scheduler.step()
        assert (traffic.reads, traffic.lists, traffic.noise) == (1, 0, 2)
    assert [answer.text_ids for answer in answers] == [[0] * 8] * 3


def test_a_drawing_ends_without_being_read_and_is_read_at_once(engine) -> None:
    drawing = engine.drawing("a cat", SamplingOptions(guidance=3.0, n=2))
    scheduler = start(engine, drawing)
    with Traffic() as traffic:
        while scheduler.step():
            pass
    assert drawing.finished and drawing.error is None and traffic.reads == 0
    with Traffic() as traffic:
        assert len(drawing.drawn(drawing.num_new)) == 2
    assert traffic.reads == 1
