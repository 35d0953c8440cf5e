"""A decode step on a GPU as a CUDA graph: recorded once for a shape, then started by one call instead of hundreds.

What is recorded are the layers of model/language_model.py themselves, over buffers that stay where they are. A graph
knows no lengths: attention runs over the filled part of the cache rounded up to `REACH` positions, and the mask, which
is computed from the positions inside the graph, hides the rest. One graph serves all requests that step together, of
both kinds; graphs live as long as their cache. Tests hold the buffers and masks against plain steps on the CPU; no GPU
has run this yet.
"""

from collections.abc import Callable
from typing import Protocol
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

from openjanus.model.attention import CacheRows, KVCache
from openjanus.model.language_model import LanguageModel

REACH = 128  # positions of a cache by which graphs differ
WARM_UPS = 2  # runs before recording: libraries choose and allocate what they need


class Recording(Protocol):
    """A computation that can be started again; its result is where it was."""

    result: Tensor

    def replay(self) -> None: ...


class CudaRecording:
    """A CUDA graph of a computation."""

    def __init__(self, compute: Callable[[], Tensor]):
        self.graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                compute()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(self.graph):
            self.result = compute()

    def replay(self) -> None:
        self.graph.replay()


def run_layers(model: LanguageModel, x: Tensor, cosine: Tensor, sine: Tensor, rows: CacheRows) -> Tensor:
    for layer in model.layers:
        x = layer(x, cosine, sine, None, rows)
    return model.norm(x)


class _Graph:
    """The layers over buffers of one shape, recorded."""

    def __init__(
        self,
        model: LanguageModel,
        record: Callable[[Callable[[], Tensor]], Recording],
        inputs: tuple[Tensor, ...],
        rows: CacheRows,
        reach: int,
    ):
        self.inputs = tuple(tensor.clone() for tensor in inputs)
        x, cosine, sine, position = self.inputs
        whole, start, stop = ref(rows.cache), rows.start, rows.start + len(position)  # a graph keeps no cache alive

        def compute() -> Tensor:
            cache = whole()
            assert cache is not None
            return run_layers(model, x, cosine, sine, cache.rows(start, stop, position, reach))

        self.recording = record(compute)

    def run(self, inputs: tuple[Tensor, ...]) -> Tensor:
        for buffer, tensor in zip(self.inputs, inputs, strict=True):
            buffer.copy_(tensor)
        self.recording.replay()
        return self.recording.result


class GraphedLayers:
    """What a decode step runs instead of its layers (`Decode` in model/language_model.py). The result is valid until
    the next step of the same shape."""

    def __init__(self, model: LanguageModel, record: Callable[[Callable[[], Tensor]], Recording]):
        self.model, self.record = model, record
        self.graphs: WeakKeyDictionary[KVCache, dict[tuple[int, ...], _Graph]] = WeakKeyDictionary()

    def __call__(self, x: Tensor, cosine: Tensor, sine: Tensor, rows: CacheRows) -> Tensor:
        if x.shape[1] > 1:  # the end of a prompt: a shape that hardly comes again
            return run_layers(self.model, x, cosine, sine, rows)
        reach = min(-(-rows.reach // REACH) * REACH, rows.cache.num_positions)
        inputs = (x, cosine, sine, rows.position)
        graphs = self.graphs.setdefault(rows.cache, {})
        key = (rows.start, *x.shape[:2], reach)
        if key not in graphs:
            graphs[key] = _Graph(self.model, self.record, inputs, rows, reach)
        return graphs[key].run(inputs)
