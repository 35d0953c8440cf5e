"""A decode step on a GPU as a CUDA graph: recorded once for a shape, then started by one call instead of hundreds.

What is recorded are the layers of model/language_model.py themselves, over buffers that stay where they are. One graph
serves all requests that step together, of both kinds; graphs live as long as their cache. Few shapes cover all steps:

    positions   attention runs over the filled part of the cache rounded up to `REACH`; the mask, which is computed from
                the positions inside the graph, hides the rest
    rows        rounded up to a power of two; a row that stands for none computes something that nobody reads, and
                remembers it at the last position of its row of the cache: that is the place where it does no harm, as a
                row of a prompt on its way in is filled up to there before anything reads that position

Tests hold the buffers, masks and rows against plain steps on the CPU, and the graphs themselves on a GPU.
"""

import threading
from collections.abc import Callable
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

from openjanus.model.attention import CacheRows, KVCache
from openjanus.model.language_model import LanguageModel

REACH = 128  # positions of a cache by which graphs differ
WARM_UPS = 2  # runs before recording: libraries choose and allocate what they need
# Held while a graph is recorded, and by other threads while they compute on a GPU: torch's allocator gives nothing back
# during a recording, so a thread that runs out of memory then would fail.
recording_lock = threading.Lock()


# Records a computation -> what starts it again, and its result, which stays where it is.
Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]


class CudaRecorder:
    """Records on one device, whatever device is the current one.

    All its graphs share one pool of memory, and so one stream: what a graph computes on the way may lie where another
    graph has its result, which is read before that other graph runs.
    """

    def __init__(self, device: torch.device):
        self.device = device
        with torch.cuda.device(device):
            self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def __call__(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        # "thread_local": what other threads do meanwhile, such as allocating memory, does not end the recording
        recording = torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local")
        with recording_lock, torch.cuda.device(self.device):
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                for _ in range(WARM_UPS):
                    compute()
            torch.cuda.current_stream().wait_stream(self.stream)
            with recording:
                result = compute()
        return graph.replay, result


def run_layers(model: LanguageModel, x: Tensor, cosine: Tensor, sine: Tensor, rows: CacheRows) -> Tensor:
    for layer in model.layers:
        x = layer(x, cosine, sine, None, rows)
    return model.norm(x)


Inputs = tuple[Tensor, Tensor, Tensor, Tensor]  # of a step: x, cosine, sine, position


class _Graph:
    """The layers over buffers for the first `num_rows` rows of a cache, recorded."""

    def __init__(self, model: LanguageModel, record: Record, inputs: Inputs, cache: KVCache, num_rows: int, reach: int):
        self.buffers = tuple(tensor.new_zeros(num_rows, *tensor.shape[1:]) for tensor in inputs)
        self.last_position = cache.num_positions - 1
        self.fill(inputs)  # recording runs the layers, too
        x, cosine, sine, position = self.buffers
        living = ref(cache)  # a graph keeps no cache alive

        def compute() -> Tensor:
            cache = living()
            assert cache is not None
            return run_layers(model, x, cosine, sine, cache.rows(0, num_rows, position, reach))

        self.replay, self.result = record(compute)

    def fill(self, inputs: Inputs) -> None:
        num_used = len(inputs[0])
        for buffer, tensor in zip(self.buffers, inputs, strict=True):
            buffer[:num_used].copy_(tensor)
        self.buffers[-1][num_used:].fill_(self.last_position)

    def run(self, inputs: Inputs) -> Tensor:
        self.fill(inputs)
        self.replay()
        return self.result[: len(inputs[0])]


class _Graphs:
    """Those of one cache, by rows and reach."""

    def __init__(self, record: Record):
        self.record = record
        self.by_shape: dict[tuple[int, int], _Graph] = {}


class GraphedLayers:
    """What a decode step runs instead of its layers (`Decode` in body.py). The result is valid until the next step.

    recorder: what records the graphs of one cache, for the device of that cache.
    """

    def __init__(self, model: LanguageModel, recorder: Callable[[torch.device], Record]):
        self.model, self.recorder = model, recorder
        self.graphs: WeakKeyDictionary[KVCache, _Graphs] = WeakKeyDictionary()

    def __call__(self, x: Tensor, cosine: Tensor, sine: Tensor, rows: CacheRows) -> Tensor:
        if x.shape[1] > 1 or rows.start > 0:  # the end of a prompt: not worth recording
            return run_layers(self.model, x, cosine, sine, rows)
        cache = rows.cache
        num_rows = min(1 << (len(x) - 1).bit_length(), cache.num_rows)
        reach = min(-(-rows.reach // REACH) * REACH, cache.num_positions)
        inputs = (x, cosine, sine, rows.position)
        if cache not in self.graphs:
            self.graphs[cache] = _Graphs(self.recorder(cache.keys.device))
        graphs = self.graphs[cache]
        if (num_rows, reach) not in graphs.by_shape:
            graphs.by_shape[num_rows, reach] = _Graph(self.model, graphs.record, inputs, cache, num_rows, reach)
        return graphs.by_shape[num_rows, reach].run(inputs)
