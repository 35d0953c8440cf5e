"""All runs of a model as one command: in order, resumable, with an estimate before and a report after."""

import json
import sys
from dataclasses import replace

import pytest

import openjanus
from openjanus import recipes
from openjanus.cli import main
from openjanus.data.sources import find_source
from openjanus.eyes.contrastive import ContrastiveTraining
from openjanus.eyes.tokenizer import TokenizerTraining
from openjanus.recipes import pipeline
from openjanus.recipes.report import curves
from openjanus.training.janus import JanusTraining
from openjanus.training.loop import Schedule
from openjanus.training.run import Run
from openjanus.training.stage import Stage
from tests import tiny

STAGE = Stage("all", 2, 1e-3, {"emoji.pictures": 2})
EYE = tiny.CONFIG.understanding


def tokenizer() -> Run:
    task = TokenizerTraining(tiny.IMAGE_TOKENIZER, perceptual_weight=0.0, discriminator_width=4)
    return Run("tiny.tokenizer", task, (STAGE,), schedule=Schedule(log_steps=1))


def encoder() -> Run:
    task = ContrastiveTraining(
        replace(EYE.encoder, pooling_head=True), 1, 2, 32, num_text_tokens=48, text_tokenizer="emoji"
    )
    stage = replace(STAGE, mixture={"emoji.captions": 2})
    return Run("tiny.encoder", task, (stage,), schedule=Schedule(log_steps=1))


def janus() -> Run:
    start = {"text_tokenizer": "emoji", "understanding.encoder": "gone", "generation.tokenizer": "gone"}
    task = JanusTraining(start, "", model=tiny.CONFIG, processor=tiny.PROCESSOR, row_tokens=160)
    stage = replace(STAGE, mixture={"emoji.questions": 1, "emoji.drawings": 1})
    return Run("tiny.janus", task, (stage,), schedule=Schedule(log_steps=1))


@pytest.fixture
def tiny_pipeline(monkeypatch) -> None:
    for make in (tokenizer, encoder, janus):
        monkeypatch.setitem(recipes.RECIPES, f"tiny.{make.__name__}", make)
    monkeypatch.setitem(pipeline.PIPELINES, "tiny", ("tiny.tokenizer", "tiny.encoder", "tiny.janus"))
    taken = {"understanding.encoder": "tiny.encoder", "generation.tokenizer": "tiny.tokenizer"}
    monkeypatch.setitem(pipeline.TAKES, "tiny.janus", taken)
    monkeypatch.setattr(sys.modules["openjanus.cli.train"], "REPORT_N", 1)  # the package has a function of this name


def test_one_command_trains_all_and_goes_on(tiny_pipeline, tmp_path, capsys, monkeypatch) -> None:
    out = tmp_path / "out"
    main(["train", "tiny", "--out", str(out), "--device", "cpu"])
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-2:] == [str(out / "model"), str(out / "report.html")]
    for name in ("tiny.tokenizer", "tiny.encoder", "tiny.janus", "all"):
        assert f"{name}: about " in printed.err
    engine = openjanus.load(out / "model")
    assert engine.model.config == tiny.CONFIG
    start = json.loads((out / "tiny.janus" / "run.json").read_text())["task"]["start"]
    assert start["generation.tokenizer"] == str(out / "tiny.tokenizer")
    page = (out / "report.html").read_text()
    assert page.count("<h2>") == 5 and page.count("data:image/png;base64,") == 4
    assert "own error" in page and "http" not in page
    monkeypatch.setattr("openjanus.training.loop._train_step", lambda *_: pytest.fail("it had been finished"))
    monkeypatch.setattr(pipeline, "seconds_per_step", lambda *_: 100.0)
    main(["train", "tiny", "--out", str(out), "--device", "cpu"])
    assert "tiny.janus: about 3 min" in capsys.readouterr().err
    assert openjanus.load(out / "model").generate("a cat", seed=1)[0].size == (16, 16)


def test_a_pipeline_takes_no_overrides(tiny_pipeline, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "tiny", "seed=1", "--out", str(tmp_path)])
    assert end.value.code == 2
    assert (
        "tiny is tiny.tokenizer, tiny.encoder, tiny.janus: change or print these one by one" in capsys.readouterr().err
    )


def test_the_bundled_models_pipeline_starts_each_run_from_the_earlier_ones(tmp_path) -> None:
    parts = pipeline.parts_of("nano", tmp_path)
    assert [part.folder.name for part in parts] == [part.run.name for part in parts]
    start = parts[-1].run.task.start
    assert start["understanding.encoder"] == str(tmp_path / "nano.encoder")
    assert start["generation.tokenizer"] == str(tmp_path / "wide.tokenizer")
    for part in parts:
        for stage in part.run.stages:
            for source in stage.mixture:
                find_source(source, part.run.task.examples)


def test_curves_of_a_run_without_figures_are_a_line(tmp_path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    assert curves(tmp_path / "metrics.jsonl", "x") == "<p>No figures yet.</p>"
