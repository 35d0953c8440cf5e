"""Another language model as the body: any folder or hub id of the Llama family, Qwen2.5, Qwen3 or Mistral.

    python examples/backbone.py --body Qwen/Qwen3-0.6B --out runs/qwen

The eyes come from the bundled model. As in the paper's first stage, the body and the encoders are frozen: the adaptors
and the image head learn to speak the body's language. The text tokenizer is the body's own.
"""

from pathlib import Path

import tyro

import openjanus
from openjanus.emoji.sources import questions
from openjanus.runtime import Runtime
from openjanus.training.janus import JanusTraining
from openjanus.training.run import Run, restore, train
from openjanus.training.stage import Stage
from openjanus.weights import checkpoint

ADAPTORS = ("understanding.adaptor.*", "generation.*", "!generation.tokenizer.*")


def main(body: str, out: Path, num_steps: int = 20) -> None:
    """Trains the adaptors, stores the result in out/model, and asks and draws once.

    Args:
        body: a folder or a hub id of a language model in the format of transformers
        out: a new folder for the run
        num_steps: training steps
    """
    start = {"language_model": body, "understanding.encoder": "nano", "generation.tokenizer": "nano"}
    task = JanusTraining(start=start, image_ids="", row_tokens=512)
    stage = Stage("adaptors", num_steps, 1e-3, {"emoji.questions": 4, "emoji.drawings": 4}, ADAPTORS)
    train(Run("backbone", task, (stage,)), out, Runtime.choose("cpu"))
    checkpoint.save(restore(out), out / "model")

    engine = openjanus.load(out / "model")
    talk = questions("seen", 0)(0)
    print(talk[0].content[-1], "".join(engine.chat(talk[:1], max_new_tokens=16)))
    engine.generate("two red apples", seed=1)[0].save(out / "apples.png")


if __name__ == "__main__":
    tyro.cli(main)
