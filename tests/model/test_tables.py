"""A new eye is one file and one row of a table: an encoder, an image tokenizer, an eye with a memory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOYS = ROOT / "tests" / "toys"
ROWS = {  # after this line of model/janus.py
    "UNDERSTANDING: dict[type[UnderstandingEyeConfig], Any] = {\n": ["patch_eye.PatchEye"],
    "GENERATION: dict[type[GenerationEyeConfig], Any] = {\n": ["colour_eye.ColourEye", "fading_eye.FadingEye"],
}


def test_a_new_eye_is_one_file_and_one_row(tmp_path) -> None:
    """In a copy of the package, which then trains a step with each, saves, loads, draws and answers."""
    package = tmp_path / "openjanus"
    shutil.copytree(ROOT / "openjanus", package, ignore=shutil.ignore_patterns("__pycache__", "nano", "page"))
    path = package / "model" / "janus.py"
    source = path.read_text(encoding="utf-8")
    num_lines = len(source.splitlines())
    for table, eyes in ROWS.items():
        for eye in eyes:
            assert source.count(table) == 1
            source = source.replace(table, f"{table}    model.{eye}Config: model.{eye},\n")
            shutil.copy(TOYS / f"{eye.split('.')[0]}.py", package / "model")
    assert len(source.splitlines()) == num_lines + 3
    path.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(TOYS / "live_through.py"), str(tmp_path / "work")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.endswith(" passed")] == [
        f"{name} passed" for name in ("patch", "colour", "fading", "shared fading")
    ]
