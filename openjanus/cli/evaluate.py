"""openjanus evaluate: scores of a model in the emoji world."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from openjanus.cli.options import ComputeOptions, ModelOptions, short_or
from openjanus.source import Compute


def evaluate(
    model: Annotated[
        Positional[str], arg(metavar="MODEL", help="nano, a checkpoint folder, a finished run, or a hub id")
    ] = "nano",
    n: Annotated[int, arg(help="prompts and questions per split")] = 300,
    seed: Annotated[int, arg(help="seed of prompts, questions and drawings")] = 1,
    guidance: float | None = None,
    temperature: float | None = None,
    out: Annotated[Path | None, arg(help="write the figures as JSON")] = None,
    compute: ComputeOptions = Compute(),  # noqa: B008  (frozen)
) -> None:
    """Score drawings and answers of a model in the emoji world, by split, and show the scorer's own error."""
    from openjanus.recipes.evaluators import evaluate_emoji_world

    n = short_or(n, 2)
    engine = ModelOptions(compute.device, compute.weights, compute.threads, model).engine()
    options = engine.options(seed=seed, guidance=guidance, temperature=temperature)
    report = evaluate_emoji_world(engine, options, n, seed)
    print(report.text)
    if out is not None:
        report.save(out)
