"""The benchmark puts the right figures together, for both sides; how large they are is not tested."""

import json

import pytest

from openjanus.bench import training
from openjanus.bench.measure import Result, Times
from openjanus.bench.report import as_json, table
from openjanus.bench.sides import Case
from openjanus.cli import main
from openjanus.sequence import Kind
from openjanus.source import Compute, ModelSource
from openjanus.testing import tiny_checkpoint

CASE = Case(Kind.GENERATE, "janus-1.3b", ModelSource("cpu", "int8", model=""), 2, 5.0)


def times(prefill: float, steps: tuple[float, float, float], decode: float) -> Times:
    return Times([prefill], {length: [s] for length, s in zip((60, 348, 624), steps, strict=True)}, [decode])


def test_a_whole_drawing_is_prefill_and_steps_and_decoding() -> None:
    """Exact where a step's time grows linearly."""
    whole = times(1.0, (0.1, 0.2, 0.3), 2.0).whole(576)
    assert whole == pytest.approx(1 + 2 + sum(0.1 + 0.2 * step / 574 for step in range(575)))


def test_medians_are_taken_over_rounds() -> None:
    t = Times([1.0, 9.0, 2.0], {60: [0.1, 0.3, 0.2], 70: [0.2] * 3, 80: [0.2] * 3}, [0.0])
    assert t.step[0] == 0.2 and t.whole(1) == 2.0


def test_figures_and_ratio() -> None:
    sides = {"openjanus": times(1, (0.1, 0.1, 0.1), 1), "transformers": times(2, (0.4, 0.4, 0.4), 2)}
    result = Result(CASE, 11, sides, {"openjanus": 10, "transformers": 30}, bandwidth=20.0, read=1)
    told = json.loads(as_json(result))
    assert told["seconds_per_image"] == pytest.approx((1 + 10 * 0.1 + 1) / 2)
    assert told["peer_seconds_per_image"] == pytest.approx((2 + 10 * 0.4 + 2) / 2)
    assert told["ratio"] == pytest.approx(8 / 3, abs=1e-5)
    assert told["bandwidth_share"] == pytest.approx(1 / 0.1 / 20)
    assert (told["peak_bytes"], told["peer_peak_bytes"]) == (10, 30)
    assert "2.7 times faster" in table(result)


def last_json(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("command", ["draw", "answer"])
def test_both_sides_run(command, tmp_path, capsys) -> None:
    folder = str(tiny_checkpoint(tmp_path / "model"))
    options = ["--model", folder, "--weights", "float32", "--versus", "transformers", "--versus-weights", "float32"]
    main(["bench", command, *options, "--steps", "3", "--rounds", "1", "--json"])
    told = last_json(capsys)
    figure = "seconds_per_image" if command == "draw" else "tokens_per_second"
    for name in (figure, f"peer_{figure}", "ratio", "bandwidth_share", "peak_bytes", "peer_peak_bytes"):
        assert told[name] > 0
    assert len(told["step_seconds"]) == len(told["peer_step_seconds"]) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shape", "janus-2b"], "shape 'janus-2b': expected one of janus-1.3b"),
        (["--versus", "llama.cpp"], "versus 'llama.cpp': expected transformers"),
        (["--versus", "transformers", "--versus-weights", "int8"], "versus-weights 'int8'"),
        (["--steps", "0"], "steps is 0"),
        (["--steps", "66", "--rounds", "1"], "66 steps a round, but a picture takes 63"),
        (["--model", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, message, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "draw", *options])
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line


def test_a_training_step_of_both_sides_finds_the_same_loss(tmp_path) -> None:
    """On the same conversations and from the same weights, in bfloat16 up to its rounding."""
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 2e-3)):
        case = training.Case("nano", Compute("cpu", dtype, 1), examples=3, row_tokens=192)
        result = training.measure(case, "transformers", 1, 1, tmp_path / dtype)
        ours, theirs = result.losses["openjanus"], result.losses["transformers"]
        assert ours == pytest.approx(theirs, rel=tolerance) and len(ours) == 2
        assert ours[1] != ours[0] and min(result.peak.values()) > 1e8
        assert set(result.seconds) == {"openjanus", "transformers"} and result.products > 1e8
        assert 0 < result.mfu("openjanus") < 1.5


def test_train_as_a_command(capsys) -> None:
    main(
        ["bench", "train", "--examples", "2", "--row-tokens", "128", "--rounds", "1", "--steps", "1", "--threads", "1"]
    )
    told = capsys.readouterr().out
    assert "nano, 5 layers in the body" in told and "supervised tokens/s" in told and "transformers" not in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shape", "janus-2b"], "expected one of nano, janus-1.3b"),
        (["--versus", "llama.cpp"], "expected transformers"),
        (["--examples", "0"], "must be 1 or more"),
    ],
)
def test_a_training_that_cannot_be_measured_is_refused(options, message, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "train", *options])
    assert message in capsys.readouterr().err
