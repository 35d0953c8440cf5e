"""A run that is killed (SIGKILL) at random moments goes on from its newest checkpoint and ends as one that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.parallel.test_two_processes import ROOT, losses

NUM_STEPS = 150


def start(num: int, folder: Path) -> subprocess.Popen[bytes]:
    """Begins or resumes the training in so many processes."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num)] if num > 1 else []
    return subprocess.Popen(
        [sys.executable, *several, "-m", "tests.parallel.worker", "full", str(folder), str(NUM_STEPS)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "NUM_STEPS": str(NUM_STEPS)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill(folder: Path) -> None:
    """Ends every process that names the folder: torchrun's workers are in sessions of their own."""
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f"{folder}\0".encode() in command.read_bytes():
                os.kill(int(command.parent.name), signal.SIGKILL)


def newest(folder: Path) -> str:
    return max((path.name for path in (folder / "checkpoints").glob("[0-9]*")), default="")


@pytest.mark.slow
@pytest.mark.parametrize("num", [1, 2])
def test_ten_kills_lose_nothing_that_was_saved(num, tmp_path) -> None:
    assert start(num, tmp_path / "whole").wait() == 0
    expected, folder, rng = (
        load_file(tmp_path / "whole" / "result.safetensors"),
        tmp_path / "killed",
        random.Random(num),
    )
    for _ in range(10):
        before, process = newest(folder), start(num, folder)
        while newest(folder) == before:  # it resumes, and saves after every step
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        kill(folder)
        process.wait()
        assert newest(folder) > before
    assert int(newest(folder)) < NUM_STEPS, "it must still have something to do"
    assert start(num, folder).wait() == 0
    result = load_file(folder / "result.safetensors")
    assert all(torch.equal(tensor, result[name]) for name, tensor in expected.items())
    assert losses(folder) == losses(tmp_path / "whole")
    assert len(losses(folder)) == NUM_STEPS
