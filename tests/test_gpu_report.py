"""`make test-gpu`: one line where nothing can be run, one report where it can, and never more than its time."""

import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

from openjanus.cli import bench, main

ROOT = Path(__file__).parents[1]
JSON = '{"seconds_per_image": 1.5, "step_seconds": [0.1, 0.2]}'


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_report", ROOT / "scripts/gpu_report.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_without_a_gpu_one_line_says_so(tmp_path) -> None:
    command = ["make", "-s", "test-gpu", f"PYTHON={sys.executable}", f"OUT={tmp_path / 'report'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr and not (tmp_path / "report").exists()
    (line,) = done.stdout.splitlines()
    assert line == f"test-gpu: nothing was run: torch {torch.__version__} finds no CUDA device here"


@pytest.mark.parametrize(
    ("version", "reason"), [("2.10.1", "torch 2.10.1 is here, 2.11 or newer is needed"), ("2.11.0+cu130", "")]
)
def test_an_old_torch_is_refused(script, monkeypatch, version, reason) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert script.reason_not_to() == reason


def test_what_is_installed_is_not_installed_again(script, monkeypatch) -> None:
    assert script.missing_packages() == []
    monkeypatch.setattr(script, "is_installed", lambda name: name not in ("torch", "tyro", "pytest"))
    assert [need.partition(">")[0] for need in script.missing_packages()] == ["tyro", "pytest"]


def test_a_command_out_of_time_ends_with_all_that_it_started(script) -> None:
    """It would wait for its child, which holds its output open."""
    child = "subprocess.run([sys.executable, '-c', 'import time; time.sleep(300)'])"
    statement = f"import subprocess, sys; print('begun', flush=True); {child}"
    started = time.monotonic()
    outcome = script.run(["timeit", "-n1", "-r1", statement], 5)
    assert outcome.code is None and outcome.verdict == "out of time" and "begun" in outcome.output
    assert time.monotonic() - started < 60


@pytest.fixture
def runs(script, monkeypatch) -> list[list[str]]:
    """A machine with a GPU on which every command ends well: what was run."""
    commands: list[list[str]] = []

    def run(command: list[str], seconds: float):
        commands.append(command)
        output = (
            "warm up\n= 3 passed in 1s =\n"
            if command[0] == "pytest"
            else f"a table\n{JSON}\n[W] a warning at the end\n"
        )
        return script.Outcome(command, 0, 1.0, output)

    monkeypatch.setattr(script, "reason_not_to", lambda: "")
    monkeypatch.setattr(script, "describe_machine", lambda: {"GPU": "1 x a card"})
    monkeypatch.setattr(script, "run", run)
    return commands


def test_the_report_holds_machine_tests_and_figures(script, runs, tmp_path) -> None:
    assert script.main(tmp_path / "report") == 0
    text = (tmp_path / "report/report.md").read_text()
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["report.md"]
    assert "- GPU: 1 x a card" in text and "## Tests: passed, 1 s\n\n3 passed in 1s" in text
    assert text.count("| seconds_per_image | 1.5 |") == len(script.BENCHMARKS) == len(runs) - 1


def test_what_fails_beside_the_peer_is_measured_alone(script, runs, tmp_path, monkeypatch) -> None:
    run = script.run

    def run_without_peer(command: list[str], seconds: float):
        return script.Outcome(command, 2, 1.0, "error: no peer") if "--versus" in command else run(command, seconds)

    monkeypatch.setattr(script, "run", run_without_peer)
    assert script.main(tmp_path) == 1
    assert [command[1:] for command in runs[1:]] == [
        command[:-2] if "--versus" in command else command for command in script.BENCHMARKS
    ]


def test_benchmarks_for_which_no_time_is_left_are_named(script, runs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(script, "LIMIT_SECONDS", 1.0)
    assert script.main(tmp_path) == 0
    text = (tmp_path / "report.md").read_text()
    assert len(runs) == 1
    assert all(f"- `openjanus {' '.join(command)}`" in text for command in script.BENCHMARKS)


def test_a_failure_is_in_the_report_and_in_the_exit_code(script, tmp_path) -> None:
    tests = script.Outcome(["pytest"], 1, 2.0, "assert 1 == 2\n= 1 failed =")
    report = script.Report(tmp_path / "report.md", {}, tests, [script.Outcome(["openjanus"], None, 9.0, "slow")])
    report.write()
    text = report.path.read_text()
    assert "## Tests: failed, code 1, 2 s\n\n1 failed" in text and "out of time, 9 s" in text and not report.is_good


def test_the_command_line_knows_every_benchmark(script, monkeypatch) -> None:
    shapes = []
    monkeypatch.setattr(bench, "_run", lambda kind, options, n, guidance: shapes.append(options.shape))
    for command in script.BENCHMARKS:
        main(list(command))
    assert len(shapes) == len(script.BENCHMARKS) and set(shapes) == {"janus-1.3b", "janus-pro-7b"}
