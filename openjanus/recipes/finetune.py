"""Fine-tuning of any Janus on data of your own, in both directions at once.

    openjanus train finetune.lora start=MODEL data=FOLDER --out runs/mine         small matrices beside the body's
    openjanus train finetune.qlora start=MODEL data=FOLDER --out runs/mine        the same, beside a body of 4 bits
    openjanus train finetune.full start=MODEL data=FOLDER --out runs/mine         all but the image tokenizer

`epochs=3` sets the number of steps by the size of the data. The eyes' encoders are frozen by LoRA: few examples would
spoil them.
"""

from dataclasses import replace

from openjanus.data.config import DataConfig
from openjanus.training.janus import JanusTraining
from openjanus.training.loop import Schedule
from openjanus.training.lora import LoRAConfig
from openjanus.training.run import Run
from openjanus.training.stage import Stage

ADAPTORS_AND_HEAD = ("understanding.adaptor.*", "generation.adaptor.*", "generation.head.*")
EXAMPLES = 16.0  # of the data in a step


def full() -> Run:
    """Fine-tunes every part of a Janus but its image tokenizer."""
    task = JanusTraining("", data={"data": DataConfig()}, row_tokens=1024, long_row_tokens=8192, micro_batch_rows=4)
    stage = Stage(
        "tune",
        300,
        1e-5,
        {"data": EXAMPLES},
        ("*", "!generation.tokenizer.*"),
        "cosine",
        warmup_steps=15,
        weight_decay=0.1,
    )
    return Run("finetune.full", task, (stage,), schedule=Schedule(evaluate_steps=100, evaluate_first=True))


def qlora() -> Run:
    """As finetune.lora, with the matrices beside the adapters in 4 bits."""
    run = lora()
    assert isinstance(run.task, JanusTraining) and run.task.lora is not None
    return replace(run, name="finetune.qlora", task=replace(run.task, lora=replace(run.task.lora, base="int4")))


def lora() -> Run:
    """Fine-tunes LoRA matrices in the body, and both adaptors and the image head as a whole."""
    run = full()
    assert isinstance(run.task, JanusTraining)
    trainable = ("*.lora_a", "*.lora_b", *ADAPTORS_AND_HEAD)
    stage = Stage("tune", 300, 2e-4, {"data": EXAMPLES}, trainable, "cosine", warmup_steps=15)
    return replace(run, name="finetune.lora", task=replace(run.task, lora=LoRAConfig()), stages=(stage,))
