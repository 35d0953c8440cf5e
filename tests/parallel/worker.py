"""What the tests run in one process, or in several of torchrun: trains a tiny Janus and writes what came of it.

python -m tests.parallel.worker RECIPE FOLDER STEPS [key=value ...]
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from openjanus.parallel.several import Several, is_torchrun
from openjanus.runtime import Runtime
from openjanus.testing import tiny_checkpoint
from openjanus.training.janus import JanusTraining
from openjanus.training.loop import Schedule
from openjanus.training.lora import LoRAConfig
from openjanus.training.processes import ONE
from openjanus.training.run import Run, restore, train
from openjanus.training.stage import Stage
from openjanus.weights.checkpoint import stored_tensors

ALL = ("*", "!generation.tokenizer.*")
LORA = ("*.lora_a", "*.lora_b", "understanding.adaptor.*", "generation.adaptor.*", "generation.head.*")
# The first and only picture to look at is example 0: with two processes, the second never has one.
MIXTURE = {"emoji.questions": 1, "emoji.drawings": 2, "emoji.texts": 2}


def run_of(recipe: str, base: Path) -> Run:
    lora = {"lora": LoRAConfig(4), "qlora": LoRAConfig(4, base="int8")}.get(recipe)
    recompute = recipe == "muon"
    task = JanusTraining(str(base), row_tokens=192, micro_batch_rows=2, lora=lora, recompute=recompute)
    stage = Stage(
        "tune",
        int(os.environ.get("NUM_STEPS", "5")),
        1e-3,
        MIXTURE,
        ALL if lora is None else LORA,
        weight_decay=0.1,
        clip_norm=0.5,
    )
    if recipe == "muon":
        stage = replace(stage, muon=("language_model.layers.*",), muon_lr=0.01)
    return Run("tiny", task, (stage,), schedule=Schedule(log_steps=1, checkpoint_seconds=0.0))


def main(recipe: str, folder: Path, stop_after: int) -> None:
    torch.set_num_threads(1)
    base = folder.parent / "base"
    processes = Several(torch.device("cpu")) if is_torchrun() else ONE
    if processes.rank == 0 and not base.exists():
        tiny_checkpoint(base)
    processes.wait()
    train(run_of(recipe, base), folder, Runtime.choose("cpu"), stop_after=stop_after, processes=processes)
    if processes.rank == 0:
        tensors = {name: tensor.contiguous() for name, tensor in stored_tensors(restore(folder).model).items()}
        save_file(tensors, folder / "result.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
