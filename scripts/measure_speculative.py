"""Measures speculative drawing against drawing id by id: it wins where a pass gives more ids than it costs.

    python scripts/measure_speculative.py                       # passes and seconds a picture: nano, or a checkpoint
    python scripts/measure_speculative.py --model FOLDER --n 2 --seeds 4
    python scripts/measure_speculative.py --shape janus-1.3b    # random weights: what a pass of T positions costs

Random weights say nothing about how many drafts are kept, so a shape is only timed. The plain loop (window 0) and the
windows take turns.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from openjanus.bench.shapes import SHAPES, random_checkpoint
from openjanus.inference.engine import Engine, load
from openjanus.inference.sampling import SamplingOptions
from openjanus.model.janus import Janus
from openjanus.runtime import WEIGHTS, Runtime
from openjanus.sequence import Embedded, Kind

PROMPTS = (
    "two red apples on a white background",
    "a yellow star",
    "three blue cars and a green tree",
    "a cat beside a purple heart",
    "a green leaf, night background",
    "four orange fish",
)


def count_passes(engine: Engine, options: SamplingOptions, seeds: int, windows: Sequence[int]) -> None:
    """Prints a line for each window, 0 being the plain loop: passes and seconds for a picture and the ratios."""
    passes: dict[int, list[int]] = {window: [] for window in windows}
    seconds: dict[int, list[float]] = {window: [] for window in windows}
    for seed in range(seeds):
        for prompt in PROMPTS:
            for window in windows:
                steps: list[int] = []
                started = time.perf_counter()
                engine.generate_ids(
                    prompt, replace(options, seed=seed), lambda done, _, steps=steps: steps.append(done), window
                )
                seconds[window].append((time.perf_counter() - started) / options.n)
                passes[window].append(len(steps))
    print(f"temperature {options.temperature:g}, guidance {options.guidance:g}, {options.n} pictures at once")
    print("window  passes +- error  fewer  seconds/picture  faster")
    for window in windows:
        error = stdev(passes[window]) / len(passes[window]) ** 0.5
        fewer, faster = mean(passes[0]) / mean(passes[window]), mean(seconds[0]) / mean(seconds[window])
        print(
            f"{window:6} {mean(passes[window]):7.1f} +- {error:5.1f} {fewer:5.2f}x {mean(seconds[window]):16.3f}"
            f" {faster:6.2f}x"
        )


def time_forwards(model: Janus, rows: int, widths: Sequence[int], filled: int, repeats: int, device: str) -> None:
    """Prints what a pass of T positions costs (adaptor, body, image head), and the ids it must give to break even."""
    ids = torch.zeros(rows, max(widths), dtype=torch.int64, device=device)
    cache = model.language_model.make_cache(rows, filled + max(widths))

    def forward(T: int) -> None:
        position = torch.arange(filled, filled + T, device=device).expand(rows, -1)
        x = model.generation(ids[:, :T])
        hidden = model(Embedded(x, position), cache.rows(0, rows, position, filled + T))
        float(model.heads[Kind.GENERATE](hidden).sum())  # waits for the device

    seconds = alternate(forward, widths, repeats)
    print(f"{rows} rows, {filled} positions in the cache, {torch.get_num_threads()} threads")
    print("     T  ms a pass  ids to break even")
    for T in widths:
        print(f"{T:6} {seconds[T] * 1e3:10.1f} {seconds[T] / seconds[widths[0]]:18.2f}")


def alternate(run: Callable[[int], None], widths: Sequence[int], repeats: int) -> dict[int, float]:
    """Median seconds of each width; all take turns, after one turn to warm up."""
    seconds: dict[int, list[float]] = {T: [] for T in widths}
    for turn in range(repeats + 1):
        for T in widths:
            started = time.perf_counter()
            run(T)
            if turn:
                seconds[T].append(time.perf_counter() - started)
    return {T: median(times) for T, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--windows", type=int, nargs="+", default=[2, 4, 8, 16, 32], help="also the T of --shape")
    parser.add_argument("--n", type=int, default=1, help="pictures at once")
    parser.add_argument("--seeds", type=int, default=4, help="for each of six prompts")
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--filled", type=int, default=320, help="positions in the cache: half of a drawing")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", choices=WEIGHTS, default="float32")
    parser.add_argument("--threads", type=int, default=0)
    a = parser.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    with torch.inference_mode():
        if a.shape:
            config = SHAPES[a.shape]
            layers = a.layers or config.language_model.num_layers
            config = replace(config, language_model=replace(config.language_model, num_layers=layers))
            model = random_checkpoint(config, Runtime.choose(a.device, a.weights)).model
            time_forwards(model, 2 * a.n, [1, *a.windows], a.filled, a.repeats, a.device)
        else:
            engine = load(a.model, a.device, a.weights)
            own = engine.options(n=a.n)
            for options in dict.fromkeys((own, replace(own, temperature=1.0))):
                count_passes(engine, options, a.seeds, [0, *a.windows])


if __name__ == "__main__":
    main()
