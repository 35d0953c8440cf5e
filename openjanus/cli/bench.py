"""openjanus bench draw | answer | train | serve. torch is imported only when a command runs."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from openjanus.cli.options import ComputeOptions, Device, Model, Threads, short_or
from openjanus.source import Compute

if TYPE_CHECKING:
    from openjanus.sequence import Kind


@dataclass(frozen=True)
class Options(Compute):
    """Options of `draw` and `answer`."""

    shape: Annotated[str, arg(help="a published size, random weights: janus-1.3b, janus-pro-1b, janus-pro-7b")] = ""
    steps: Annotated[int, arg(help="steps to time, spread over short, middle and full caches")] = 96
    rounds: Annotated[int, arg(help="each starts a new request; both sides take turns")] = 4
    versus: Annotated[str, arg(help="transformers, or nothing")] = ""
    versus_weights: Annotated[str, arg(help="of the peer: float32, bfloat16 or float16")] = "bfloat16"
    json: Annotated[bool, arg(help="end with one line of JSON")] = False
    model: Model = "nano"


def draw(
    options: Annotated[Options, arg(name="")] = Options(),
    n: Annotated[int, arg(aliases=["-n"], help="pictures at once")] = 1,
    guidance: Annotated[float, arg(help="1: off; else two rows for each picture")] = 5.0,
) -> None:
    """Time drawing: an image, its parts, the share of the memory's bandwidth, and peak memory."""
    from openjanus.sequence import Kind

    _run(Kind.GENERATE, options, n, guidance)


def answer(options: Annotated[Options, arg(name="")] = Options()) -> None:
    """Time an answer about a picture: prefill, picture included, and tokens a second."""
    from openjanus.sequence import Kind

    _run(Kind.TEXT, options, 1, 1.0)


def train(
    shape: Annotated[str, arg(help="nano, or a published size: janus-1.3b, janus-pro-1b, janus-pro-7b")] = "nano",
    layers: Annotated[int, arg(help="in the body and in the encoder, for less memory; 0: as published")] = 0,
    examples: Annotated[int, arg(help="conversations about a picture in a step")] = 4,
    row_tokens: Annotated[int, arg(help="positions of a row that conversations are packed into")] = 2048,
    steps: Annotated[int, arg(help="timed steps of a round")] = 3,
    rounds: Annotated[int, arg(help="each starts anew; both sides take turns")] = 2,
    versus: Annotated[str, arg(help="transformers, or nothing")] = "",
    compile: Annotated[bool, arg(help="our layers as compiled kernels: task.compile of a recipe")] = False,
    device: Device = "auto",
    dtype: Annotated[str, arg(help="autocast dtype: auto, float32, bfloat16")] = "auto",
    threads: Threads = 0,
) -> None:
    """Time a training step: supervised tokens a second, memory, and the share of what the machine can multiply."""
    import tempfile

    from openjanus.bench.shapes import SHAPES
    from openjanus.bench.training import Case, measure, table
    from openjanus.runtime import dtype_name

    dtype = dtype_name(dtype, ("auto", "float32", "bfloat16"))
    if shape not in (shapes := ("nano", *SHAPES)):
        raise ValueError(f"shape {shape!r}: expected one of {', '.join(shapes)}")
    if versus not in ("", "transformers"):
        raise ValueError(f"versus {versus!r}: expected transformers")
    if min(examples, steps, rounds, row_tokens) < 1 or layers < 0:
        raise ValueError("examples, steps, rounds and row-tokens must be 1 or more, and layers 0 or more")
    compute = Compute(device, dtype, threads)
    print(compute.runtime(), file=sys.stderr)
    case = Case(shape, Compute(device, compute.runtime().weights, threads), layers, examples, row_tokens, compile)
    with tempfile.TemporaryDirectory() as folder:
        print(table(measure(case, versus, short_or(steps, 1), short_or(rounds, 1), Path(folder) / "weights")))


def serve(
    minutes: Annotated[float, arg(help="of the mixed load; before it, each request runs alone")] = 10.0,
    clients: int = 32,
    requests: Annotated[int, arg(help="different requests, half drawings and half answers")] = 32,
    url: Annotated[str | None, arg(help="a running server; default: start one")] = None,
    out: Annotated[Path | None, arg(help="write the figures as JSON")] = None,
    model: Model = "nano",
    compute: ComputeOptions = Compute(),  # noqa: B008  (frozen)
) -> None:
    """Load test of the server: wrong and lost answers, memory, throughput against one request at a time."""
    from openjanus.bench.load import BenchSettings, run

    minutes = short_or(minutes, 0.02)
    run(BenchSettings(minutes, clients, requests, url, out, compute.of(model)))


def _run(kind: "Kind", o: Options, n: int, guidance: float) -> None:
    from openjanus.bench import report
    from openjanus.bench.measure import measure
    from openjanus.bench.shapes import SHAPES
    from openjanus.bench.sides import Case
    from openjanus.inference.sampling import SamplingOptions
    from openjanus.runtime import DTYPES, SHORT

    if o.shape and o.shape not in SHAPES:
        raise ValueError(f"shape {o.shape!r}: expected one of {', '.join(SHAPES)}")
    if o.versus not in ("", "transformers"):
        raise ValueError(f"versus {o.versus!r}: expected transformers")
    peer_weights = SHORT.get(o.versus_weights, o.versus_weights)
    if o.versus and peer_weights not in DTYPES:
        raise ValueError(f"versus-weights {o.versus_weights!r}: expected one of {', '.join(DTYPES)}")
    if o.steps < 3 or o.rounds < 1:
        raise ValueError(f"steps is {o.steps} and rounds {o.rounds}, expected at least 3 and 1")
    SamplingOptions(n=n, guidance=guidance)  # checks the ranges
    print(o.runtime(), file=sys.stderr)
    case = Case(kind, o.shape, o.of("" if o.shape else o.model), n, guidance)
    peer = replace(case, source=replace(case.source, weights=peer_weights)) if o.versus else None
    result = measure(case, peer, o.steps, o.rounds)
    print(report.table(result))
    if o.json:
        print(report.as_json(result))
