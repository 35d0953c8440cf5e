"""A run's folder: what may change when it goes on, what it needs to be restored, and who may train there."""

import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from openjanus import config as configs
from openjanus.cli import main
from openjanus.eyes import contrastive
from openjanus.eyes.contrastive import ContrastiveTraining
from openjanus.recipes import find_recipe
from openjanus.training import checkpoint
from openjanus.training.loop import Schedule
from openjanus.training.run import Run, locked, restore, train
from openjanus.training.stage import Stage
from openjanus.weights import checkpoint as checkpoints
from openjanus.weights import own
from tests import tiny
from tests.training.test_loop import CPU, ENCODER_TASK, janus_task, run_of  # noqa: F401  (a fixture)

SCHEDULE = Schedule(log_steps=1)


def encoder_run(*stages: Stage) -> Run:
    """A run that takes milliseconds a step."""
    default = (stage("one", 3), stage("two", 3))
    return Run("encoder", ENCODER_TASK, stages or default, schedule=SCHEDULE)


def stage(name: str, num_steps: int, lr: float = 1e-3, **settings) -> Stage:
    return Stage(name, num_steps, lr, {"emoji.captions": 4}, **settings)


def step_of(folder: Path) -> int:
    newest = checkpoint.latest(folder / "checkpoints")
    assert newest is not None
    return checkpoint.read_state(newest)["step"]


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def refusal(run: Run, folder: Path) -> str:
    before = (folder / "run.json").read_text()
    with pytest.raises(ValueError) as error:
        train(run, folder, CPU)
    assert (folder / "run.json").read_text() == before
    return str(error.value).removeprefix(f"{folder} ")


def test_length_and_rate_of_stages_that_have_not_ended_may_change(tmp_path) -> None:
    train(encoder_run(), tmp_path, CPU, stop_after=1)
    changed = encoder_run(stage("one", 2, 5e-4), stage("two", 4, 2e-4))
    train(changed, tmp_path, CPU)
    assert [(line["stage"], line["lr"]) for line in lines(tmp_path)] == [
        *(("one", lr) for lr in (1e-3, 5e-4)),
        *[("two", 2e-4)] * 4,
    ]
    assert own.load(Run, tmp_path / "run.json") == changed


def test_how_a_run_is_watched_may_change(tmp_path) -> None:
    train(encoder_run(), tmp_path, CPU, stop_after=2)
    train(replace(encoder_run(), schedule=Schedule(3, 4, 0.0)), tmp_path, CPU)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 6]


def test_what_changes_nothing_but_rounding_and_drawing_may_change(janus_task, tmp_path) -> None:  # noqa: F811
    run = run_of("janus", janus_task)
    train(run, tmp_path, CPU, stop_after=1)
    free = replace(janus_task, micro_batch_rows=1, sampling={"guidance": 2.0})
    train(replace(run, task=free), tmp_path, CPU, stop_after=1)
    assert step_of(tmp_path) == 2
    assert restore(tmp_path).sampling == {"guidance": 2.0}


def test_whatever_else_differs_is_listed_by_key_with_old_and_new_value(tmp_path) -> None:
    train(encoder_run(), tmp_path, CPU, stop_after=4)  # in the second stage
    other = Run(
        "another",
        replace(ENCODER_TASK, bias=-3.0, vision_encoder=replace(ENCODER_TASK.vision_encoder, num_layers=1)),
        (stage("one", 3, 5e-4), stage("two", 5, 5e-4, weight_decay=0.1, betas=(0.9, 0.99)), stage("three", 1)),
        seed=1,
    )
    said = refusal(other, tmp_path)
    for words in (
        "holds a run with other settings: ",
        "name was 'encoder' and is 'another'",
        "task.bias was -2.0 and is -3.0",
        "task.vision_encoder.num_layers was 2 and is 1",
        "stages.one.lr was 0.001 and is 0.0005",
        "stages.two.weight_decay was 0.0 and is 0.1",
        "stages.two.betas.1 was 0.95 and is 0.99",
        "stages.three was absent and is a Stage",
        "seed was 0 and is 1",
        "Give them as they were, or use another folder",
    ):
        assert words in said
    assert said.count(" was ") == 8  # the second stage's own length and rate are free


def test_another_kind_of_task_is_said_in_a_word(tmp_path) -> None:
    train(encoder_run(), tmp_path, CPU, stop_after=1)
    other = replace(find_recipe("nano.tokenizer")(), name="encoder", stages=encoder_run().stages)
    assert "task was a ContrastiveTraining and is a TokenizerTraining." in refusal(other, tmp_path)


def test_a_stage_cannot_become_shorter_than_what_is_done_of_it(tmp_path) -> None:
    train(encoder_run(), tmp_path, CPU, stop_after=5)
    assert "stages.two.num_steps is 1, but 2 steps of it are done" in refusal(
        encoder_run(stage("one", 3), stage("two", 1)), tmp_path
    )
    train(encoder_run(stage("one", 3), stage("two", 2)), tmp_path, CPU)
    assert step_of(tmp_path) == 5


def test_an_ended_run_goes_on_if_its_last_stage_becomes_longer(tmp_path) -> None:
    whole = train(encoder_run(stage("one", 5)), tmp_path / "whole", CPU)
    train(encoder_run(stage("one", 3)), tmp_path / "parts", CPU)
    assert "stages.one.lr was" in refusal(encoder_run(stage("one", 3, 1e-4)), tmp_path / "parts")
    longer = train(encoder_run(stage("one", 5)), tmp_path / "parts", CPU)
    assert tiny.equal_trees(whole.model.state_dict(), longer.model.state_dict())


def test_what_the_message_about_a_gradient_advises_is_accepted(tmp_path, monkeypatch) -> None:
    train(encoder_run(), tmp_path, CPU, stop_after=1)
    loss = contrastive.contrastive_loss
    with monkeypatch.context() as patch:
        patch.setattr(contrastive, "contrastive_loss", lambda *given: (loss(*given)[0] * float("nan"), {}))
        with pytest.raises(FloatingPointError, match=r"not finite; go on .* stages.one.lr=0\.0005") as error:
            train(encoder_run(), tmp_path, CPU)
    advice = str(error.value).split()[-1]
    train(configs.override(encoder_run(), [advice]), tmp_path, CPU)
    assert [line["lr"] for line in lines(tmp_path)][:4] == [1e-3, 5e-4, 5e-4, 1e-3]


@pytest.fixture
def gone(janus_task, tmp_path, monkeypatch) -> tuple[Path, Run]:  # noqa: F811
    """A run of a Janus whose eyes and ids are gone, seen from another working directory."""
    eyes = tmp_path / "eyes"
    shutil.copytree(Path(janus_task.image_ids).parent, eyes)
    monkeypatch.chdir(tmp_path)
    here = {"understanding.encoder": "eyes/encoder", "generation.tokenizer": "eyes/tokenizer"}
    task = replace(janus_task, start={**janus_task.start, **here}, image_ids="eyes/ids.safetensors")
    run = run_of("janus", replace(task, sampling={"guidance": 2.0}))
    train(run, Path("run"), CPU, stop_after=3)
    shutil.rmtree(eyes)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "run", run


def test_a_run_is_restored_from_its_own_folder_only(gone) -> None:
    folder, run = gone
    kept = restore(folder)
    saved = checkpoint.latest(folder / "checkpoints")
    assert saved is not None
    stored = checkpoint._tensors(saved, "model")
    assert tiny.equal_trees(kept.model.state_dict(), stored)
    assert (kept.config.processor, kept.sampling) == (run.task.processor, {"guidance": 2.0})
    assert kept.processor.text.encode("two red apples") == tiny.text_tokenizer().encode("two red apples")


def test_a_run_is_converted_from_its_own_folder_only(gone, tmp_path) -> None:
    folder, _ = gone
    main(["convert", str(folder), str(tmp_path / "model")])
    written = checkpoints.load(tmp_path / "model").model.state_dict()
    assert tiny.equal_trees(written, restore(folder).model.state_dict())


def test_a_run_goes_on_without_the_eyes_that_it_began_with(gone, janus_task, tmp_path) -> None:  # noqa: F811
    folder, run = gone
    ids = replace(run.task, image_ids=janus_task.image_ids)  # the file has moved
    train(replace(run, task=ids), folder, CPU)
    assert step_of(folder) == 5


def test_a_damaged_newest_checkpoint_changes_nothing_of_the_result(tmp_path) -> None:
    whole = train(encoder_run(), tmp_path / "whole", CPU)
    folder = tmp_path / "parts"
    for steps in (2, 2):
        train(encoder_run(), folder, CPU, stop_after=steps)
    (folder / "checkpoints" / "00000004" / "state.json").write_text("")
    with pytest.warns(UserWarning, match=r"00000004/state.json: damaged.*taking the checkpoint before, .*00000003"):
        parts = train(encoder_run(), folder, CPU)
    assert tiny.equal_trees(whole.model.state_dict(), parts.model.state_dict())
    assert [line["step"] for line in lines(folder)] == [1, 2, 3, 4, 5, 6]


def test_a_run_of_an_older_version_goes_on(tmp_path) -> None:
    whole = train(encoder_run(), tmp_path / "whole", CPU)
    folder = tmp_path / "parts"
    train(encoder_run(), folder, CPU, stop_after=2)
    (saved,) = (folder / "checkpoints").glob("*2")
    (saved / checkpoint.SUMS).unlink()  # it had neither sums nor figures that wait
    state = json.loads((saved / "state.json").read_text())
    del state["log"]
    (saved / "state.json").write_text(json.dumps(state))
    parts = train(encoder_run(), folder, CPU)
    assert tiny.equal_trees(whole.model.state_dict(), parts.model.state_dict())


@pytest.mark.parametrize("kind", ["encoder", "janus"])
def test_a_run_that_named_no_text_tokenizer_goes_on_with_the_emoji_worlds(kind, janus_task, tmp_path) -> None:  # noqa: F811
    run = run_of(kind, janus_task)
    train(run, tmp_path, CPU, stop_after=1)
    stored = (tmp_path / "run.json").read_text()
    assert stored.count('"text_tokenizer": "emoji"') == 1
    data = json.loads(stored)
    del data["format"]
    data["task"]["text_tokenizer"] = ""
    parts = data["task"].pop("start", {})
    if kind == "janus":
        eyes = {"encoder_from": parts["understanding.encoder"], "tokenizer_from": parts["generation.tokenizer"]}
        data["task"] |= eyes | {"start_from": ""}
    (tmp_path / "run.json").write_text(json.dumps(data))
    if kind == "janus":
        assert restore(tmp_path).processor.text.encode("a cat") == tiny.text_tokenizer().encode("a cat")
    train(run, tmp_path, CPU, stop_after=1)
    assert step_of(tmp_path) == 2 and (tmp_path / "run.json").read_text() == stored


def test_a_stop_after_no_step_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="stop_after is 0, expected 1 or more"):
        train(encoder_run(), tmp_path, CPU, stop_after=0)


def test_a_damaged_file_of_the_run_is_named(tmp_path) -> None:
    train(encoder_run(), tmp_path, CPU, stop_after=1)
    (tmp_path / "run.json").write_text("")
    for call in (lambda: train(encoder_run(), tmp_path, CPU), lambda: restore(tmp_path)):
        with pytest.raises(ValueError, match=r"run.json: not JSON"):
            call()


def test_a_folder_is_locked_while_it_is_trained_in(tmp_path) -> None:
    with locked(tmp_path), pytest.raises(ValueError, match="another process trains there"):
        train(encoder_run(), tmp_path, CPU)
    train(encoder_run(), tmp_path, CPU, stop_after=1)
    assert step_of(tmp_path) == 1


def start_training(folder: Path) -> subprocess.Popen:
    """A process that trains for hours, past its first steps."""
    recipe = find_recipe("nano.encoder")()
    assert isinstance(recipe.task, ContrastiveTraining)
    words = ["stages.contrast.num_steps=1000000", 'stages.contrast.mixture={"emoji.captions": 2}']
    words += ["task.vision_encoder.num_layers=1", "task.text_num_layers=1", "schedule.log_steps=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "openjanus", "train", "nano.encoder", *words, "--out", str(folder), "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # it may be ignored here
    )
    deadline = time.monotonic() + 120
    while not (folder / "metrics.jsonl").is_file() or not (folder / "metrics.jsonl").stat().st_size:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_ends_and_meanwhile_nobody_else_trains_there(tmp_path, capsys, number, code) -> None:
    process = start_training(tmp_path)
    try:
        with pytest.raises(SystemExit) as stop:
            main(["train", "nano.encoder", "--out", str(tmp_path)])
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert stop.value.code == 2
        assert said == [f"error: {tmp_path}: another process trains there; wait for it, or use another folder"]
        assert checkpoint.latest(tmp_path / "checkpoints") is None
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code
    assert "Traceback" not in out + err
    assert "finishing the step, then saving" in err
    step = step_of(tmp_path)
    assert f"saved at step {step}" in out
    assert lines(tmp_path)[-1]["step"] == step


def test_a_killed_process_leaves_no_lock(tmp_path) -> None:
    fork = multiprocessing.get_context("fork")
    holds = fork.Event()

    def hold() -> None:
        with locked(tmp_path):
            holds.set()
            time.sleep(600)

    process = fork.Process(target=hold)
    process.start()
    assert holds.wait(60)
    with pytest.raises(ValueError, match="another process trains there"), locked(tmp_path):
        pass
    process.kill()
    process.join()
    with locked(tmp_path):
        pass
