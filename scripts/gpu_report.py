"""Runs the tests and benchmarks that need a GPU, in at most ten minutes, and writes one report.

make test-gpu                         # or: python scripts/gpu_report.py FOLDER, which gets report.md
make test-gpu OUT=FOLDER PYTHON=/path/to/python

It uses this Python's own torch (2.11 or newer; Python 3.11 or newer) and never replaces it. Other packages that are
missing are installed by pip. Without a GPU it says so in one line.
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT_SECONDS = 585.0
TEST_SECONDS = 300.0
RESERVE_SECONDS = 20.0  # less than this is not worth beginning a benchmark
NEEDS_PYTHON, NEEDS_TORCH = (3, 11), (2, 11)
TAIL_LINES = 150
DRAW, ANSWER = ["bench", "draw"], ["bench", "answer"]
TIMING = ["--device", "cuda", "--steps", "36", "--rounds", "3", "--json"]
QUICK = ["--device", "cuda", "--steps", "6", "--rounds", "1", "--json"]
PEER = ["--versus", "transformers"]
BENCHMARKS = (  # the first ones matter most
    [*DRAW, "--shape", "janus-1.3b", *TIMING, *PEER],
    [*ANSWER, "--shape", "janus-1.3b", *TIMING, *PEER],
    [*DRAW, "--shape", "janus-1.3b", "-n", "8", *TIMING, *PEER],
    [*DRAW, "--shape", "janus-pro-7b", *TIMING],
    [*ANSWER, "--shape", "janus-pro-7b", *TIMING],
    [*DRAW, "--shape", "janus-1.3b", "-n", "32", *TIMING],
    [*DRAW, "--shape", "janus-1.3b", "--weights", "int8", *QUICK],
    [*DRAW, "--shape", "janus-1.3b", "--weights", "int4", *QUICK],
)


@dataclass
class Outcome:
    """What one command gave. seconds: how long it took; code: None where it ran out of time."""

    command: Sequence[str]
    code: int | None
    seconds: float
    output: str

    @property
    def verdict(self) -> str:
        return "passed" if self.code == 0 else "out of time" if self.code is None else f"failed, code {self.code}"


@dataclass
class Report:
    """The one file, written anew after each part: what is there stands even if the machine is taken away."""

    path: Path
    machine: dict[str, str]
    tests: Outcome | None = None
    benchmarks: list[Outcome] = field(default_factory=list)
    left_out: list[list[str]] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return self.tests is not None and all(outcome.code == 0 for outcome in [self.tests, *self.benchmarks])

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(self.text())

    def text(self) -> str:
        parts = ["# openjanus on a GPU", "\n".join(f"- {name}: {value}" for name, value in self.machine.items())]
        if self.tests is not None:
            parts += [
                f"## Tests: {self.tests.verdict}, {self.tests.seconds:.0f} s",
                last_line(self.tests.output),
                block(self.tests.output),
            ]
        if self.benchmarks:
            parts.append("## Benchmarks")
        for outcome in self.benchmarks:
            parts += [f"### `{' '.join(outcome.command)}`", f"{outcome.verdict}, {outcome.seconds:.0f} s"]
            parts += [figures(outcome.output)] * (outcome.code == 0) + [block(outcome.output)]
        if self.left_out:
            commands = "\n".join(f"- `openjanus {' '.join(command)}`" for command in self.left_out)
            parts += ["## Left out: no time", commands]
        return "\n\n".join(parts) + "\n"


def last_line(output: str) -> str:
    return next((line.strip("= ") for line in reversed(output.splitlines()) if line.strip()), "no output")


def block(output: str) -> str:
    return "```\n" + "\n".join(output.rstrip().splitlines()[-TAIL_LINES:]) + "\n```"


def figures(output: str) -> str:
    """The last line of JSON in a benchmark's output, as a table."""
    told = json.loads(next((line for line in reversed(output.splitlines()) if line.startswith("{")), "{}"))
    return "\n".join(
        ["| figure | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in told.items())]
    )


def run(command: Sequence[str], seconds: float) -> Outcome:
    """A command of this Python, ended with all that it started when its time is over."""
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=max(seconds, 1))
        code: int | None = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, _ = process.communicate()
        code = None
    return Outcome(command, code, time.monotonic() - started, output)


def reason_not_to() -> str:
    """Why nothing can be tested here; empty where it can."""
    if sys.version_info < NEEDS_PYTHON:
        return f"Python {platform.python_version()} is here, {'.'.join(map(str, NEEDS_PYTHON))} or newer is needed"
    try:
        import torch
    except ImportError:
        return f"{sys.executable} has no torch; on a GPU machine name a Python that has: make test-gpu PYTHON=..."
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < NEEDS_TORCH:
        return f"torch {torch.__version__} is here, {'.'.join(map(str, NEEDS_TORCH))} or newer is needed"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA device here"
    return ""


def missing_packages() -> list[str]:
    """What openjanus and its GPU tests need and this Python lacks, without torch."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [need for need in [*project["dependencies"], "pytest>=8"] if not need.startswith("torch>")]
    return [need for need in wanted if not is_installed(re.split(r"[<>=!~ \[]", need)[0])]


def is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def install(packages: Sequence[str], folder: Path) -> str:
    """Installs packages beside torch, which stays as it is. Returns why that failed; empty where it did not."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    pin = folder / "torch.txt"
    pin.write_text(f"torch=={torch.__version__}\n")
    try:
        done = run(["pip", "install", "-qq", "--disable-pip-version-check", "-c", str(pin), *packages], 120)
    finally:
        pin.unlink()
    return "" if done.code == 0 else last_line(done.output)


def describe_machine() -> dict[str, str]:
    import torch

    count = torch.cuda.device_count()
    names = sorted({torch.cuda.get_device_name(number) for number in range(count)})
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return {
        "GPU": f"{count} x {', '.join(names)}, {memory:.0f} GiB",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}",
        "Python": platform.python_version(),
        "transformers, the peer": metadata.version("transformers") if is_installed("transformers") else "not installed",
    }


def main(folder: Path) -> int:
    started = time.monotonic()
    reason = reason_not_to()
    if reason:
        print(f"test-gpu: nothing was run: {reason}")
        return 0
    missing = missing_packages()
    if missing and (fault := install(missing, folder)):
        print(f"test-gpu: {', '.join(missing)} cannot be installed: {fault}", file=sys.stderr)
        return 1
    report = Report(folder / "report.md", describe_machine())
    print(f"test-gpu: tests, then benchmarks; the report is {report.path}", flush=True)
    report.tests = run(["pytest", "-m", "gpu", "tests/gpu", "-ra", "--durations=10"], TEST_SECONDS)
    report.write()
    print(f"test-gpu: tests {report.tests.verdict}: {last_line(report.tests.output)}", flush=True)
    waiting = list(BENCHMARKS)
    while waiting:
        benchmark, left = waiting.pop(0), LIMIT_SECONDS - (time.monotonic() - started)
        if left < RESERVE_SECONDS:
            report.left_out.append(benchmark)
        else:
            outcome = run(["openjanus", *benchmark], left)
            report.benchmarks.append(outcome)
            print(f"test-gpu: {' '.join(benchmark)}: {outcome.verdict}", flush=True)
            if outcome.code and benchmark[-2:] == PEER:  # the peer may be missing, or too old
                waiting.insert(0, benchmark[:-2])
        report.write()
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "gpu-report")))
