"""The processes of torchrun: who they are, how the model is sharded, and what they tell one another.

each rank: its slice of a step's examples ─► micro-batches, as many as the others have ─► loss / targets of all
─► gradients, averaged and sharded ─► clipped by the norm of all ─► its part of every parameter
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from openjanus.parallel import shards
from openjanus.runtime import Runtime
from openjanus.training.janus import JanusData
from openjanus.training.loop import Training
from openjanus.training.metrics import PER_STEP
from openjanus.training.processes import OneProcess

IMAGE_TOKENIZER = "generation.tokenizer."


def is_torchrun() -> bool:
    """Whether this process is one of several of torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def of_this_process(runtime: Runtime) -> Runtime:
    """The runtime on the GPU that belongs to this process; on the CPU the same."""
    if runtime.device.type != "cuda":
        return runtime
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return replace(runtime, device=device)


class Several(OneProcess):
    """`size` processes of torchrun. replicas: groups that each hold a whole sharded copy; 1: one copy over all.

    Raises ValueError if the processes cannot be divided into so many groups.
    """

    def __init__(self, device: torch.device, replicas: int = 1):
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        if replicas < 1 or self.size % replicas:
            raise ValueError(f"replicas is {replicas}, expected a divisor of the {self.size} processes")
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        self.mesh = make_mesh(device.type, self.size, replicas)

    def join(self, training: Training, runtime: Runtime) -> Training:
        data = training.data
        if training.blank is None or not isinstance(data, JanusData):
            raise ValueError("only a Janus trains in several processes; train its eyes in one")
        shard(training.model.to(runtime.device), self.mesh, runtime.dtype)
        return replace(training, data=replace(data, rank=self.rank, size=self.size))

    def fill(self, made: Sequence[Any], blank: Any) -> Sequence[Any]:
        """As many micro-batches as every process has: all run the same parts of the model, in the same order."""
        return [*made, *(blank() for _ in range(int(self._largest(len(made))) - len(made)))]

    def touch(self, model: nn.Module) -> Tensor:
        """Parameters outside of the layers are reduced together: every process needs a gradient for each."""
        return sum(
            (p.flatten()[0] * 0 for p in model.parameters() if p.requires_grad and not isinstance(p, DTensor)),
            start=torch.zeros(()),
        )

    def sums(self, numbers: Sequence[float]) -> list[float]:
        total = torch.tensor(list(numbers), dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def any(self, *flags: bool) -> tuple[bool, ...]:
        return tuple(number > 0 for number in self.sums([float(flag) for flag in flags]))

    def _largest(self, number: float) -> float:
        largest = torch.tensor([number], dtype=torch.float64)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return float(largest)

    def measures(self, measures: dict[str, tuple[float, int]]) -> dict[str, tuple[float, int]]:
        total: dict[str, tuple[float, float]] = {}
        for each in self._said(measures):
            for name, (value, count) in each.items():
                before = total.get(name, (0.0, 0))
                # the sizes of a step are those of all processes together
                share = count / self.size if name.startswith(PER_STEP) else count
                total[name] = before[0] + value, before[1] + share
        return {name: (value, round(count)) for name, (value, count) in total.items()}

    def _said(self, value: Any) -> list[Any]:
        """What each process says, as JSON."""
        said = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        length = int(self._largest(len(said)))
        padded = torch.full((length,), ord(" "), dtype=torch.uint8)
        padded[: len(said)] = said
        gathered = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(gathered, padded)
        return [json.loads(bytes(each.tolist()).decode()) for each in gathered]

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def wait(self) -> None:
        dist.barrier()

    @contextmanager
    def evaluating(self, model: nn.Module) -> Iterator[None]:
        """The layers gather themselves; what lies outside of them is gathered here."""
        model.unshard()  # type: ignore[operator]
        try:
            yield
        finally:
            model.reshard()  # type: ignore[operator]

    def save(self, folder: Path, model: nn.Module, optimizer: Any, state: dict[str, Any], names: Any) -> None:
        shards.save(folder, model, optimizer, state, names, self)

    def restore_model(self, newest: Path, model: nn.Module, names: Any) -> None:
        shards.restore_model(newest, model, names)

    def restore_optimizer(self, newest: Path, optimizer: Any) -> None:
        shards.restore_optimizer(newest, optimizer)


def make_mesh(device: str, size: int, replicas: int) -> DeviceMesh:
    """All processes in a row, or `replicas` rows of them."""
    if replicas == 1:
        return init_device_mesh(device, (size,), mesh_dim_names=("shard",))
    return init_device_mesh(device, (replicas, size // replicas), mesh_dim_names=("replicate", "shard"))


def shard(model: nn.Module, mesh: DeviceMesh, dtype: torch.dtype) -> None:
    """Shards each layer, and what is left as one. Parameters stay in float32; layers are gathered in `dtype`.

    The image tokenizer is frozen and encodes the data: it stays whole.
    """
    policy = MixedPrecisionPolicy(param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32)
    ignored = {p for name, p in model.named_parameters() if name.startswith(IMAGE_TOKENIZER)}
    for name, layers in list(model.named_modules()):
        if isinstance(layers, nn.ModuleList) and not name.startswith(IMAGE_TOKENIZER):
            for layer in layers:
                fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, ignored_params=ignored)
