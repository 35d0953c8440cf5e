"""The benchmark on a GPU: both sides are waited for, and the bandwidth is the GPU's own."""

import json

import pytest
import torch

from openjanus.bench.measure import bandwidth
from openjanus.bench.sides import Case, Ours, Transformers
from openjanus.cli import main
from openjanus.sequence import Kind
from openjanus.source import ModelSource
from openjanus.testing import tiny_checkpoint

pytestmark = pytest.mark.gpu
SIDES = [Ours, Transformers]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


def make_side(side, model: str, kind: Kind):
    if side is Transformers:
        pytest.importorskip("transformers", minversion="5.20")
    n, guidance = (2, 5.0) if kind == Kind.GENERATE else (1, 1.0)
    return side(Case(kind, "", ModelSource("cuda", "bfloat16", model=model), n, guidance))


@pytest.mark.parametrize("kind", [Kind.GENERATE, Kind.TEXT])
@pytest.mark.parametrize("side", SIDES)
def test_a_part_has_ended_when_its_time_is_taken(side, kind, model) -> None:
    measured = make_side(side, model, kind)
    start = measured.prefill()
    assert torch.cuda.current_stream().query()
    measured.fill(start, 3)
    assert torch.cuda.current_stream().query()
    measured.steps(3)
    assert torch.cuda.current_stream().query()
    measured.decode()
    assert torch.cuda.current_stream().query()


def test_no_graph_is_recorded_in_the_timed_steps(model) -> None:
    side = make_side(Ours, model, Kind.GENERATE)
    start = side.prefill()
    side.fill(start, 3)
    (recorded,) = side.model.language_model.decode.graphs.values()
    count = len(recorded.by_shape)
    side.steps(3)
    assert count == len(recorded.by_shape) > 0


def test_the_bandwidth_is_that_of_the_gpu() -> None:
    assert bandwidth(torch.device("cuda")) > 5e10  # less than any GPU that torch still supports


@pytest.mark.parametrize("versus", [[], ["--versus", "transformers"]], ids=["alone", "with a peer"])
def test_a_drawing_is_measured(versus, model, capsys) -> None:
    if versus:
        pytest.importorskip("transformers", minversion="5.20")
    main(["bench", "draw", "--model", model, "--device", "cuda", *versus, "--steps", "3", "--rounds", "1", "--json"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["bandwidth_bytes_per_second"] > 5e10 and figures["bandwidth_share"] < 1.2
    assert 0 < figures["peak_bytes"] < torch.cuda.get_device_properties(0).total_memory
    assert ("ratio" in figures) == bool(versus)
