"""Two processes (gloo, on the CPU) train what one trains: full, LoRA and Muon, also where one holds no picture."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from openjanus.testing import tiny_checkpoint
from openjanus.training import checkpoint
from tests.readers.files import write_jsonl, write_pictures

ROOT = Path(__file__).parents[2]
TOLERANCE = {"qlora": 5e-4}  # inputs of a stored matrix are rounded to 8 bits, which turns the last bit into more
RECIPES = ("full", "lora", "qlora", "muon")


def launch(num: int, module: str, *words: str) -> str:
    """Runs a module in so many processes; what they print."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num)] if num > 1 else []
    done = subprocess.run(
        [sys.executable, *several, "-m", module, *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def run(num: int, recipe: str, folder: Path, stop_after: int = 5) -> dict[str, torch.Tensor]:
    """Trains in so many processes; the model that came of it."""
    launch(num, "tests.parallel.worker", recipe, str(folder), str(stop_after))
    return load_file(folder / "result.safetensors")


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = ("step", "text_loss", "image_loss", "loss", "grad_norm", "lr")
    return [{name: line[name] for name in names if name in line} for line in lines]


@pytest.fixture(scope="module", params=RECIPES)
def alone(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, run(1, request.param, folder / "one")


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float = 2e-5) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=2e-4, atol=atol, msg=lambda text, name=name: name + text)


@pytest.fixture(scope="module")
def together(alone):
    recipe, folder, _ = alone
    return run(2, recipe, folder / "two")


def test_five_steps_of_two_equal_those_of_one(alone, together) -> None:
    recipe, folder, expected = alone
    assert_close(expected, together, TOLERANCE.get(recipe, 2e-5))
    one, two = losses(folder / "one"), losses(folder / "two")
    assert len(one) == len(two) == 5
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=2e-3 if recipe == "qlora" else 1e-4)


def test_what_two_saved_one_and_two_go_on_from(alone) -> None:
    recipe, folder, expected = alone
    for before, after in ((2, 1),) if recipe in ("muon", "qlora") else ((2, 1), (2, 2), (1, 2)):
        place = folder / f"{before} then {after}"
        run(before, recipe, place, 2)
        newest = max((place / "checkpoints").iterdir())
        assert len(list(newest.glob("model-*-of-2.safetensors"))) == (2 if before == 2 else 0)
        assert_close(expected, run(after, recipe, place, 3), TOLERANCE.get(recipe, 2e-5))
        assert [line["step"] for line in losses(place)] == [1, 2, 3, 4, 5]


def test_every_process_writes_rows_of_its_own(alone, together) -> None:
    recipe, folder, _ = alone
    newest = max((folder / "two" / "checkpoints").iterdir())
    parts = []
    for rank in range(2):
        with safe_open(newest / f"model-{rank}-of-2.safetensors", "pt") as file:
            first = json.loads(file.metadata()["first_rows"])
            parts.append({name: (int(first[name]), file.get_tensor(name)) for name in file.keys()})  # noqa: SIM118
    name = "language_model.layers.0.attention.q." + ("lora_a" if "lora" in recipe else "weight")
    (row0, own0), (row1, own1) = parts[0][name], parts[1][name]
    assert row0 == 0 and row1 == own0.shape[0] and not torch.equal(own0[: len(own1)], own1)


def test_the_command_in_two_processes_tunes_on_own_data(tmp_path) -> None:
    """Held-out losses, drawings and the adapter of LoRA come once, and one process would have got the same."""
    write_pictures(tmp_path / "my", range(12))
    captions = [{"file_name": f"{n}.png", "text": f"picture {n}"} for n in range(12)]
    write_jsonl(tmp_path / "my" / "metadata.jsonl", captions)
    base = tiny_checkpoint(tmp_path / "base", "official")
    words = ["train", "finetune.lora", f"start={base}", f"data={tmp_path / 'my'}", "data.held_out=0.3"]
    words += ["task.row_tokens=256", "stages.tune.num_steps=2", "schedule.log_steps=1", "--threads", "1", "--out"]
    told = [launch(num, "openjanus", *words, str(tmp_path / str(num))) for num in (1, 2)]
    assert told[1].count("making previews") == told[1].count("examples to train") == 1
    results = [load_file(tmp_path / num / "adapter" / "adapter_model.safetensors") for num in ("1", "2")]
    assert_close(*results)
    first, second = (losses(tmp_path / num) for num in ("1", "2"))
    assert all(a == pytest.approx(b, rel=1e-4) for a, b in zip(first, second, strict=True)) and len(first) == 4
    assert len(list((tmp_path / "2" / "previews").glob("*.png"))) == 2
    kept = [checkpoint.latest(tmp_path / num / "best") for num in ("1", "2")]
    assert [path.name if path else None for path in kept] == ["00000002"] * 2
    least = [checkpoint.read_state(path)["held_out_loss"] for path in kept if path]
    assert least[0] == pytest.approx(least[1], rel=1e-4)
