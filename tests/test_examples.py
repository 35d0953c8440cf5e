"""The programs of examples/ run as a reader runs them, with few steps; the third modality also learns."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.families import language_model

ROOT = Path(__file__).parents[1]
# What each leaves in its folder, besides the run and the model.
FEW_STEPS = {
    "vision_encoder": (["--num-steps", "2"], ["apples.png"]),
    "image_tokenizer": (
        ["--tokenizer-steps", "2", "--num-steps", "2"],
        ["drawn.png", "picture.png", "restored.png"],
    ),
    "backbone": (["--num-steps", "2"], ["apples.png"]),
    "data_source": (["--num-steps", "2"], ["flag.png"]),
    "signals": ([], []),
    "finetune": (["--num-pictures", "40", "--num-steps", "2", "--num-tests", "6"], ["data/0.png"]),
}


def run_example(name: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py"), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_each_example_has_a_test() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(FEW_STEPS)


@pytest.mark.parametrize("name", [name for name in FEW_STEPS if name not in ("signals", "finetune")])
def test_an_example_leaves_a_model_and_its_pictures(name, tmp_path) -> None:
    words, pictures = FEW_STEPS[name]
    if name == "backbone":
        language_model("qwen3", tmp_path / "body")
        words = [*words, "--body", str(tmp_path / "body")]
    out = tmp_path / "out"
    run_example(name, "--out", str(out), *words)
    assert (out / "model" / "config.json").is_file()
    for picture in pictures:
        with Image.open(out / picture) as image:
            assert image.size == (64, 64)


def test_the_third_modality_is_learned(tmp_path) -> None:
    """Chance is 25%; 200 answers have a standard error of 3 points."""
    said = run_example("signals", "--out", str(tmp_path / "out"))
    found = re.search(r"(\d+)% of 200 unseen waves are named right; chance is 25%", said)
    assert found and int(found[1]) >= 60, said[-500:]


def test_fine_tuning_is_measured_before_and_after(tmp_path) -> None:
    """docs/training.md has what 300 steps reach; here are two."""
    words, (picture,) = FEW_STEPS["finetune"]
    said = run_example("finetune", "--out", str(tmp_path), *words)
    found = re.findall(
        r"^(collages|old pictures), (corners drawn|drawings|answers) +(\d+)% +(\d+)%$", said, re.MULTILINE
    )
    assert len(found) == 4 and all(0 <= int(share) <= 100 for line in found for share in line[2:]), said[-500:]
    assert int(found[3][2]) >= 50  # the bundled model's answers about old pictures
    with Image.open(tmp_path / picture) as image:
        assert image.size == (64, 64)
    for name in ("drawings.png", "run/adapter/adapter_model.safetensors", "run/report.html"):
        assert (tmp_path / name).is_file(), name
