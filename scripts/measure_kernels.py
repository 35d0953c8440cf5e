"""Measures the CPU kernels against torch's own operations, and where a decode step spends its time.

python scripts/measure_kernels.py                      # products and steps, beside the memory's bandwidth
python scripts/measure_kernels.py --step int8          # one step at the shape of Janus-1.3B, operation by operation
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from openjanus.bench.measure import bandwidth
from openjanus.bench.shapes import JANUS_1B, SHAPES
from openjanus.bench.sides import Case, Ours
from openjanus.inference import kernels
from openjanus.inference.quantisation import LINEAR
from openjanus.model.siglip_eye import SigLIPEyeConfig
from openjanus.model.vision_encoder import VisionEncoderConfig
from openjanus.sequence import Kind
from openjanus.source import ModelSource

WIDTH_OUT, WIDTH_IN, COPIES = 5632, 2048, 8  # a matrix of Janus-1.3B; more copies than any cache holds
CPU = torch.device("cpu")
ROWS = (1, 2, 4, 8, 600)
LENGTHS = (60, 340, 620)  # of the cache


def seconds(call: Callable[[], object], repeats: int = 7) -> float:
    """Median, after one call to warm up."""
    times = []
    for repeat in range(repeats + 1):
        started = time.perf_counter()
        call()
        if repeat:
            times.append(time.perf_counter() - started)
    return median(times)


def products() -> None:
    matrices = [torch.randn(WIDTH_OUT, WIDTH_IN) * 0.02 for _ in range(COPIES)]
    forms = {name: [form(matrix) for matrix in matrices] for name, form in LINEAR.items()}
    print(f"{WIDTH_OUT} x {WIDTH_IN}, microseconds (GB/s); the memory gives {bandwidth(CPU) / 1e9:.1f} GB/s before")
    for rows in ROWS:
        x, cells = torch.randn(rows, WIDTH_IN), []
        for name, layers in forms.items():
            taken = seconds(lambda layers=layers, x=x: [layer(x) for layer in layers]) / COPIES
            size = sum(b.nbytes for b in layers[0].buffers())
            cells.append(f"{name} {taken * 1e6:.0f} ({size / taken / 1e9:.1f})")
        taken = seconds(lambda x=x: [F.linear(x, matrix) for matrix in matrices], 3) / COPIES
        cells.append(f"torch float32 {taken * 1e6:.0f} ({4 * WIDTH_OUT * WIDTH_IN / taken / 1e9:.1f})")
        print(f"{rows:4} rows: {', '.join(cells)}")
    print(f"{bandwidth(CPU) / 1e9:.1f} GB/s after")


def steps(weights: str) -> None:
    """Steps of a guided pair at the whole depth of Janus-1.3B; the growth with the cache is attention."""
    side = short_model(weights, JANUS_1B.language_model.num_layers)
    for length in LENGTHS:
        before = bandwidth(CPU)
        side.fill(length, 16)
        taken = seconds(lambda: side.steps(1), 15)
        rate, probed = side.bytes_per_step(length) / taken / 1e9, (before + bandwidth(CPU)) / 2e9
        print(f"{weights}, cache {length:3}: {taken * 1e3:.1f} ms a step, {rate:.1f} of {probed:.1f} GB/s")


def short_model(weights: str, num_layers: int) -> Ours:
    """Janus-1.3B with so many layers, and without what a drawing does not need."""
    config = replace(JANUS_1B, language_model=replace(JANUS_1B.language_model, num_layers=num_layers, vocab_size=1024))
    SHAPES["short"] = replace(config, understanding=SigLIPEyeConfig(VisionEncoderConfig(num_layers=1)))
    side = Ours(Case(Kind.GENERATE, "short", ModelSource("cpu", weights, model=""), 1, 5.0))
    side.prefill()
    return side


def step(weights: str, num_layers: int) -> None:
    """Of fewer layers than the model has: what stands before and behind them weighs more here."""
    side = short_model(weights, num_layers)
    side.fill(320, 24)
    side.steps(3)
    taken = seconds(lambda: side.steps(1), 20)
    side.fill(320, 10)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        side.steps(10)
    events = sorted(profile.key_averages(), key=lambda e: -e.self_cpu_time_total)
    whole = sum(e.self_cpu_time_total for e in events)
    print(f"{num_layers} layers, {weights}: {taken * 1e3:.1f} ms a step; shares of the operations' own time:")
    for event in events[:12]:
        print(f"  {event.self_cpu_time_total / whole:6.1%}  {event.count // 10:4} a step  {event.key}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", choices=LINEAR)
    parser.add_argument("--layers", type=int, default=6)
    a = parser.parse_args()
    if not kernels.available():
        raise SystemExit("no kernels here: a C++ compiler is needed")
    with torch.inference_mode():
        if a.step:
            step(a.step, a.layers)
        else:
            products()
            for weights in LINEAR:
                steps(weights)


if __name__ == "__main__":
    main()
