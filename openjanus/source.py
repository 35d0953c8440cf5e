"""Which model runs, and where: one value from the command line to a replica on another machine.

torch is imported where a model is loaded, so that `--help` answers at once. The command line takes its help from the
comments here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from openjanus.config import Config, NonNegativeInt

if TYPE_CHECKING:
    import torch

    from openjanus.inference.engine import Engine
    from openjanus.runtime import Runtime
    from openjanus.weights.config import Checkpoint


@dataclass(frozen=True)
class Compute(Config):
    """Where a model runs, and how its matrices are stored."""

    device: str = "auto"  # auto, cpu, cuda or mps
    weights: str = "auto"  # auto, float32, bfloat16, float16, int8 or int4: how matrices are stored
    threads: NonNegativeInt = 0  # CPU threads; 0: torch's own choice

    def runtime(self) -> "Runtime":
        """Raises ValueError for a device that is not there, and for an unknown form of weights."""
        from openjanus.runtime import Runtime

        return Runtime.choose(self.device, self.weights, self.threads)

    def of(self, model: str) -> "ModelSource":
        """A model that runs there."""
        return ModelSource(self.device, self.weights, self.threads, model)


@dataclass(frozen=True)
class ModelSource(Compute):
    """Which model runs, and where."""

    # nano (the bundled model), a checkpoint folder of any format, a finished run, or a hub id
    model: str = "nano"
    revision: str | None = None  # branch, tag or commit of a hub id
    # follow do_normalize: false of the first Janus-1.3B files, a known mistake
    as_configured: bool = False
    # keys of a foreign config to leave out, such as vq_config.something
    ignore_config_keys: tuple[str, ...] = ()
    adapter: str | None = None  # folder of an adapter (LoRA) to merge, such as runs/mine/adapter

    def folder(self) -> Path:
        """The checkpoint's folder, downloaded if need be. Raises ValueError if there is none."""
        from openjanus.weights.hub import find_checkpoint

        return find_checkpoint(self.model, self.revision, self.ignore_config_keys)

    def checkpoint(
        self, dtype: "torch.dtype | None" = None, progress: Callable[[int, int], None] | None = None
    ) -> "Checkpoint":
        """The checkpoint itself, on the CPU, in `dtype`; None: as it is stored."""
        from openjanus.weights.checkpoint import load

        keys = self.ignore_config_keys
        adapter = None if self.adapter is None else Path(self.adapter)
        return load(self.folder(), "cpu", dtype, self.as_configured, progress, ignore_config_keys=keys, adapter=adapter)

    def load(
        self,
        runtime: "Runtime | None" = None,
        progress: Callable[[int, int], None] | None = None,
        beside: "Engine | None" = None,
    ) -> "Engine":
        """An engine. beside: one whose equal tensors are used again.

        Raises ValueError for what is wrong with the model, or with the place where it runs.
        """
        from openjanus.inference.engine import load

        return load(
            self.model,
            runtime or self.runtime(),
            revision=self.revision,
            as_configured=self.as_configured,
            progress=progress,
            ignore_config_keys=self.ignore_config_keys,
            adapter=self.adapter,
            beside=beside,
        )
