"""The six experiments: what differs from D, and the one command from the eyes to the table, which can be stopped."""

import json
from dataclasses import replace

import pytest
import torch

import openjanus
from openjanus import config as configs
from openjanus.cli import main
from openjanus.eyes.contrastive import ContrastiveTraining
from openjanus.eyes.tokenizer import TokenizerTraining
from openjanus.model.image_tokenizer import ImageTokenizer
from openjanus.model.semantic_eye import SemanticEye
from openjanus.model.semantic_tokenizer import SemanticDecoder
from openjanus.model.shared_eye import SharedEye
from openjanus.model.vq_eye import VQEye
from openjanus.recipes import ablating, ablations
from openjanus.recipes.ablating import Ablation, plan_of
from openjanus.recipes.ablation_report import table
from openjanus.recipes.ablation_scores import check_pilot
from openjanus.recipes.ablations import EXPERIMENTS, SETTINGS, STAGES, Setting, differences, experiment
from openjanus.starting.parts import read_part
from openjanus.training.loop import Schedule
from openjanus.training.run import Run
from tests.remembering import DECODER

# What may differ from D: a key path of the configuration begins so.
STAGE_1_AND_2 = ("stages.adapt.trainable", "stages.unify.trainable")
SHARED = ("task.start.understanding.encoder", "task.model.understanding", *STAGE_1_AND_2)
SEMANTIC = (
    "task.start.generation.tokenizer", "task.start.generation.semantic", "task.model.generation", "task.image_ids",
    "stages.tune.trainable",
)  # fmt: skip
INTENDED = {
    "A": SHARED,
    "B": (*SHARED, *SEMANTIC),
    "C": (*SHARED, *SEMANTIC, "drawings"),
    "D": (),
    "E": ("drawings",),
    "F": ("questions",),
}
MIXTURES = {
    "drawings": ("emoji.mini.drawings", "classes", "captions", "drawings"),
    "questions": ("emoji.mini.questions", "descriptions", "understanding", "chats"),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_differs_from_d_in_the_intended_fields_only(setting, name) -> None:
    base, other = (configs.to_dict(experiment(SETTINGS[setting], which, "eyes", "ids")) for which in ("D", name))
    found = [key for key, _, _ in configs.differences(base, other) if key != "name"]
    for key in found:
        if ".mixture." in key:
            source = key.partition(".mixture.")[2]
            assert any(source in MIXTURES[kind] for kind in INTENDED[name] if kind in MIXTURES), key
        else:
            assert key.startswith(INTENDED[name]), key
    for intended in INTENDED[name]:
        is_there = any(key.startswith(intended) or intended in MIXTURES for key in found)
        absent = setting == "janus-1.3b" and intended.startswith(("task.model.", "task.image_ids"))
        assert is_there or absent, intended


@pytest.mark.parametrize("setting", SETTINGS)
def test_e_and_f_keep_the_steps_and_the_numbers_of_what_is_left(setting) -> None:
    d, e, f = (experiment(SETTINGS[setting], name, "eyes", "ids") for name in "DEF")
    for whole, answers, draws in zip(d.stages, e.stages, f.stages, strict=True):
        assert whole.num_steps == answers.num_steps == draws.num_steps
        assert whole.mixture.items() >= answers.mixture.items() and whole.mixture.items() >= draws.mixture.items()
        both = {**answers.mixture, **draws.mixture}
        assert both == whole.mixture
    assert any(len(e.stages[i].mixture) < len(d.stages[i].mixture) for i in range(len(d.stages)))


def test_the_differences_are_printed_as_one_line_a_field() -> None:
    assert differences(SETTINGS["mini"], "D") == []
    assert differences(SETTINGS["mini"], "E") == [
        f"stages.{stage}.mixture.emoji.mini.drawings: 24 -> none" for stage in ("adapt", "unify", "tune")
    ]
    lines = differences(SETTINGS["mini"], "A")
    assert "task.model.understanding: SigLIPEyeConfig -> SharedEyeConfig" in lines and len(lines) == 4
    assert differences(SETTINGS["mini"], "D-blank") == ["task.drop_caption: 0.1 -> 0.0"]
    assert differences(SETTINGS["mini"], "D-adapt") == ["stages.adapt: adapt -> none"]
    texts = differences(SETTINGS["mini"], "D-text")
    assert texts == [f"stages.{stage}.mixture.emoji.texts: 2 -> none" for stage in ("unify", "tune")]


# --- the command, with eyes and bodies that take no time


def _short(run: Run, **changes) -> Run:
    stages = tuple(
        replace(stage, num_steps=2, warmup_steps=0, mixture=dict.fromkeys(stage.mixture, 1.0)) for stage in run.stages
    )
    return replace(run, stages=stages, schedule=Schedule(log_steps=1), **changes)


def tiny_tokenizer(eyes: str) -> Run:
    run = ablations.mini_tokenizer(eyes)
    assert isinstance(run.task, TokenizerTraining)
    task = replace(run.task, tokenizer=TOKENIZER, perceptual_weight=0.0, discriminator_width=4, quantise_start=0)
    return _short(run, task=task)


def tiny_encoder(eyes: str) -> Run:
    run = ablations.mini_encoder(eyes)
    assert isinstance(run.task, ContrastiveTraining)
    task = replace(run.task, vision_encoder=ENCODER, text_num_layers=1, text_num_heads=2, text_mlp_width=32)
    stage = replace(run.stages[0], num_steps=2, warmup_steps=0, mixture={"emoji.mini.captions": 2.0})
    return replace(run, task=task, stages=(stage,))


def tiny_semantic(eyes: str) -> Run:
    run = tiny_tokenizer(eyes)
    return replace(run, name="mini.semantic", task=replace(run.task, semantic=DECODER, teacher=f"{eyes}/encoder"))


def tiny_base(eyes: str, ids: str) -> Run:
    run = ablations.mini(eyes, ids, width=32, num_layers=1)
    task = run.task
    model = replace(
        task.model,
        understanding=replace(task.model.understanding, encoder=replace(ENCODER, pooling_head=False)),
        generation=replace(task.model.generation, tokenizer=TOKENIZER, head_width=32),
    )
    return _short(run, task=replace(task, model=model))


TOKENIZER = replace(ablations.MINI_TOKENIZER, base_width=8, latent_width=8, num_ids=32, num_groups=4, code_width=4)
ENCODER = replace(ablations.MINI_ENCODER, width=32, num_layers=1, num_heads=2, mlp_width=32)
TINY = Setting(
    tiny_base,
    {"tokenizer": tiny_tokenizer, "encoder": tiny_encoder, "semantic": tiny_semantic},
    SETTINGS["mini"].draws,
    SETTINGS["mini"].understands,
    DECODER,
    drawings="emoji.mini.drawings",
    num_drawings=3,
)


@pytest.fixture
def tiny_setting(monkeypatch) -> None:
    monkeypatch.setitem(ablating.PLANS, "tiny", replace(plan_of(TINY), check=lambda scores: "a pilot"))


def test_one_command_goes_from_the_eyes_to_the_table_and_goes_on_after_a_stop(
    tiny_setting, tmp_path, capsys, monkeypatch
) -> None:
    out = tmp_path / "out"
    command = ["ablate", "tiny", "--n", "2", "--out", str(out), "--device", "cpu"]
    trained: list[str] = []
    train = ablating.train

    def counted(run, folder, *rest, **named):
        trained.append(str(folder.relative_to(out)))
        if len(trained) == 6:
            raise KeyboardInterrupt
        return train(run, folder, *rest, **named)

    monkeypatch.setattr(ablating, "train", counted)
    with pytest.raises(SystemExit):
        main([*command, "--seeds", "1"])
    assert trained == ["eyes/tokenizer", "eyes/encoder", "eyes/semantic", "seed0/D", "seed0/A", "seed0/B"]
    kept = (out / "seed0" / "D" / "scores.json").stat().st_mtime_ns
    main([*command, "--seeds", "1"])
    assert trained[6:] == [f"seed0/{name}" for name in "BCEF"]
    assert (out / "seed0" / "D" / "scores.json").stat().st_mtime_ns == kept
    results = json.loads((out / "results.json").read_text())["experiments"]
    for name, tasks in (("D", {"drawings", "answers"}), ("C", {"answers"}), ("E", {"answers"}), ("F", {"drawings"})):
        assert results[name]["0"].keys() & {"drawings", "answers"} == tasks
    capsys.readouterr()
    main([*command, "--seeds", "2", "--only", "E,D"])
    printed = capsys.readouterr()
    assert trained[10:] == ["seed1/D", "seed1/E"] and "trainings that are left: about " in printed.err
    rows = [line.split("|")[1].strip() for line in printed.out.splitlines() if line.startswith("| ")]
    assert rows == ["Exp", "D", "E"]
    assert printed.out.splitlines()[-3:] == [str(out / name) for name in ("table.md", "differences.md", "scores.png")]

    eyes = {name: openjanus.load(out / "seed0" / name / "model", "cpu").model for name in "ABCD"}
    assert all(isinstance(eyes[name].understanding, SharedEye) for name in "ABC")
    assert [type(eyes[name].generation) for name in "ABCD"] == [VQEye, SemanticEye, SemanticEye, VQEye]
    engine = openjanus.load(out / "seed0" / "B" / "model", "cpu")
    (image,) = engine.generate("a red apple", seed=1)
    assert isinstance(engine.ask(image, "what is it?", max_new_tokens=3), str)


def test_frozen_parts_of_an_eye_stay_as_they_were_trained(tiny_setting, tmp_path) -> None:
    out = tmp_path / "out"
    main(["ablate", "tiny", "--seeds", "1", "--only", "B", "--n", "2", "--out", str(out), "--device", "cpu"])
    eye = openjanus.load(out / "seed0" / "B" / "model", "cpu").model.generation
    assert isinstance(eye, SemanticEye)
    trained = ImageTokenizer(TOKENIZER)
    read_part("generation.tokenizer", str(out / "eyes" / "semantic"), 64).fill(trained)
    kept = eye.tokenizer.state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in trained.state_dict().items())
    decoder = SemanticDecoder(DECODER, TOKENIZER.code_width, TOKENIZER.num_image_ids)
    read_part("generation.semantic", str(out / "eyes" / "semantic"), 64).fill(decoder)
    assert torch.equal(decoder.position, eye.semantic.position)


def test_a_pilot_that_has_learned_too_little_stops_the_rest() -> None:
    def scores(drawn: float, answered: float):
        return {"drawings": {"seen": {"accepted": drawn}}, "answers": {"seen": {"mean": {"right": answered}}}}

    assert check_pilot(scores(0.61, 0.8)) == "the pilot (D) draws 61% and answers 80% right"
    for drawn, answered in ((0.59, 0.9), (0.9, 0.79)):
        with pytest.raises(ValueError, match="expected 60% and 80%: reduce the world, or train longer"):
            check_pilot(scores(drawn, answered))


def test_the_table_has_means_and_spreads_and_a_dash_where_nothing_was_trained() -> None:
    def run(right: float):
        kinds = {kind: {"right": right, "majority": 0.5} for kind in ("what", "color", "where", "yes_no", "mean")}
        return {"answers": {"seen": kinds, "heldout_color": kinds}}

    lines = table({"experiments": {"E": {"0": run(0.8), "1": run(0.9)}, "D-text": {"0": run(1.0)}}}).splitlines()
    assert lines[0].startswith("| Exp | visual encoder | tasks | what? |") and lines[0].endswith("| seeds |")
    assert lines[2].startswith("| E | SigLIP | understanding | 85.0 ± 7.1 |") and "| – |" in lines[2]
    assert lines[3].startswith("| D-text | D without texts | understanding + drawing | 100.0 |")
    assert STAGES.keys() == {"D-adapt", "D-text", "D-blank"}


def test_what_the_command_cannot_do_is_one_clear_line(capsys, tmp_path) -> None:
    for arguments, what in (
        (["janus-1.3b"], "unknown setting 'janus-1.3b'; known: mini, mini.small, languages"),
        (["mini", "--only", "D,G"], "unknown experiment 'G'; known: A, B, C, D, E, F"),
        (["mini", "--seeds", "0"], "seeds is 0, expected 1 or more"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["ablate", *arguments, "--out", str(tmp_path / "out"), "--device", "cpu"])
        assert end.value.code == 2 and what in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_setting_estimates_before_it_trains(tiny_setting, tmp_path, capsys) -> None:
    main(["ablate", "tiny", "--seeds", "1", "--out", str(tmp_path / "out"), "--device", "cpu", "--estimate"])
    assert "about " in capsys.readouterr().err and not (tmp_path / "out" / "eyes").exists()
    ablation = Ablation(plan_of(TINY), tmp_path / "out", "DAF", range(2))
    assert [part.folder.name for part in ablation.parts()] == ["D", "A", "F", "D", "A", "F"]
