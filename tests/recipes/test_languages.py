"""Drawing in languages never drawn from, from the eyes to the table, with bodies that take no time."""

from dataclasses import replace

import pytest
import torch

import openjanus
from openjanus.cli import main
from openjanus.emoji import mini
from openjanus.emoji.languages import LANGUAGES, LEARNED, say
from openjanus.recipes import ablating, languages
from openjanus.recipes.ablating import PLANS
from openjanus.recipes.languages import check_english, retrieved, table
from tests.recipes.test_ablations import tiny_base, tiny_encoder, tiny_tokenizer


@pytest.fixture
def tiny_languages(monkeypatch) -> None:
    monkeypatch.setattr(languages, "mini_janus", tiny_base)
    eyes = {"tokenizer": tiny_tokenizer, "encoder": tiny_encoder}
    plan = replace(PLANS["languages"], eyes=eyes, num_drawings=3, check=lambda scores: "a pilot")
    monkeypatch.setitem(ablating.PLANS, "tiny", plan)


def test_one_command_scores_every_language_and_writes_the_table(tiny_languages, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    command = ["ablate", "tiny", "--only", "none,all", "--seeds", "1", "--n", "3", "--out", str(out), "--device", "cpu"]
    main(command)
    printed = capsys.readouterr().out.splitlines()
    titles = [line.split("|")[1].strip() for line in printed if line.startswith("| ")]
    assert titles[:3] == ["condition", "all: drawn", "none: drawn"] and printed[-1] == str(out / "table.md")
    assert (
        "all: English with words of the language" in titles and "none: English line found by a middle layer" in titles
    )
    engine = openjanus.load(out / "seed0" / "all" / "model", "cpu")
    assert engine.processor.text.decode(engine.processor.text.encode("红色")) == "红色"


def test_a_body_that_maps_lines_alike_finds_the_english_one(tiny_languages, tmp_path, monkeypatch) -> None:
    main(["ablate", "tiny", "--only", "none", "--seeds", "1", "--n", "2", "--out", str(tmp_path), "--device", "cpu"])
    engine = openjanus.load(tmp_path / "seed0" / "none" / "model", "cpu")
    scenes = [mini.mini_scene("seen", 1, index) for index in range(30)]
    places = {say(code, scene): number for number, scene in enumerate(scenes) for code in LANGUAGES}
    aligned = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(languages, "_middle", lambda engine, words: aligned[places[words]])
    assert retrieved(engine, "de", 30, 1) == 1.0
    apart = torch.randn(len(places), 8, generator=torch.Generator().manual_seed(1))
    numbers = {words: number for number, words in enumerate(places)}
    monkeypatch.setattr(languages, "_middle", lambda engine, words: apart[numbers[words]])
    assert retrieved(engine, "de", 30, 1) < 0.2


def test_a_pilot_that_does_not_draw_in_english_stops_the_rest() -> None:
    assert check_english({"drawings": {"en": {"accepted": 0.61}}}) == "the pilot draws 61% right in English"
    with pytest.raises(ValueError, match="the pilot draws 59% right in English; expected 60%"):
        check_english({"drawings": {"en": {"accepted": 0.59}}})


def test_the_table_has_a_column_for_each_language() -> None:
    def run(right: float):
        share = {"accepted": right, "n": 3, "by_another": 0.0, "left_out": {"accepted": None, "n": 0},
                 "not_left_out": {"accepted": right, "n": 3}, "no_cognate": {"accepted": right, "n": 2}}  # fmt: skip
        drawn = dict.fromkeys(LANGUAGES, share)
        return {
            "drawings": drawn, "heldout_color": drawn, "mixed": dict.fromkeys(LEARNED, share),
            "answers": dict.fromkeys(LANGUAGES, right), "retrieval": dict.fromkeys(LANGUAGES[1:], right),
        }  # fmt: skip

    lines = table({"experiments": {"all": {"0": run(0.5), "1": run(0.7)}, "none": {"0": run(0.0)}}}).splitlines()
    assert lines[0] == "| condition | English | cipher | German | Chinese | emoji | unseen cipher | seeds |"
    assert lines[2] == "| all: drawn |" + " 60.0 ± 14.1 |" * 6 + " 2 |"
    assert lines[3] == "| none: drawn |" + " 0.0 |" * 6 + " 1 |"
    mixed = next(line for line in lines if "with words of the language" in line)
    assert mixed == "| all: English with words of the language | – |" + " 60.0 ± 14.1 |" * 4 + " – | 2 |"
    assert "| – |" in next(line for line in lines if "left out of parallel" in line)
