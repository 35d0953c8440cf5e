"""The one loop: exact resume, global token counts, frozen parts, and what a step holds, for all three trainings."""

import json
import shutil
import threading
from dataclasses import replace
from math import isfinite
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file

from openjanus import config as configs
from openjanus.data.image_ids import ImageIds
from openjanus.data.sources import find_source
from openjanus.eyes.contrastive import ContrastiveTraining, TwoTowers
from openjanus.eyes.tokenizer import TokenizerAndDiscriminator, TokenizerTraining
from openjanus.model.image_tokenizer import ImageTokenizer
from openjanus.processing.image import generation_pixels
from openjanus.recipes import tokenizing
from openjanus.recipes.tokenizing import tokenize_source
from openjanus.runtime import Runtime
from openjanus.sequence import Batch, Kind, TextSpan, pack
from openjanus.training import checkpoint
from openjanus.training.janus import JanusTraining, janus_training, starting_tokenizer
from openjanus.training.loop import Schedule, Training, fit
from openjanus.training.run import Run, make_training
from openjanus.training.stage import Stage
from openjanus.weights import checkpoint as checkpoints
from tests import tiny

CPU = Runtime(torch.device("cpu"), "float32", "test")
ENCODER = replace(tiny.VISION_ENCODER, pooling_head=True)
TOKENIZER_TASK = TokenizerTraining(
    tiny.IMAGE_TOKENIZER, l1_weight=1.0, perceptual_weight=0.0, discriminator_width=8, discriminator_start=2,
    quantise_start=1, revive_steps=2,
)  # fmt: skip
ENCODER_TASK = ContrastiveTraining(ENCODER, 1, 2, 32, num_text_tokens=24, bias=-2.0, text_tokenizer="emoji")
ADAPTORS = ("understanding.adaptor.*", "generation.adaptor.*", "generation.head.*")
MIXTURE = {"emoji.questions": 2, "emoji.texts": 1, "emoji.drawings": 3}


@pytest.fixture(scope="module")
def janus_task(tmp_path_factory) -> JanusTraining:
    """A task whose eyes and image ids lie in files, as after the runs before it."""
    folder = tmp_path_factory.mktemp("eyes")
    torch.manual_seed(0)
    eyes = TokenizerAndDiscriminator(TOKENIZER_TASK)
    towers = TwoTowers(ENCODER_TASK, 1024)
    for name, model in (("tokenizer", eyes), ("encoder", towers)):
        stage = Stage("none", 1, 1e-3, {"a": 1})
        optimizer = torch.optim.AdamW(model.parameters())
        checkpoint.save(folder / name / "checkpoints", model, optimizer, {"step": 1, "stage": stage.name})
    for task in (TOKENIZER_TASK, ENCODER_TASK):
        run = Run("eye", task, (stage,))
        configs.save(run, folder / ("tokenizer" if task is TOKENIZER_TASK else "encoder") / "run.json")
    ids = folder / "ids.safetensors"
    tokenize_source(eyes.tokenizer, "emoji.drawings", 0, 8, ids)
    return JanusTraining(
        start={
            "text_tokenizer": "emoji",
            "understanding.encoder": str(folder / "encoder"),
            "generation.tokenizer": str(folder / "tokenizer"),
        },
        image_ids=str(ids),
        model=tiny.CONFIG,
        processor=tiny.PROCESSOR,
        row_tokens=160,
        micro_batch_rows=2,
        text_weight=2.0,
    )


def run_of(kind: str, janus_task: JanusTraining) -> Run:
    if kind == "tokenizer":
        # the discriminator's patches need 32 px
        task = replace(TOKENIZER_TASK, tokenizer=replace(tiny.IMAGE_TOKENIZER, image_size_px=32))
        return Run(kind, task, (Stage("all", 5, 1e-3, {"emoji.pictures": 4}),))
    if kind == "encoder":
        return Run(kind, ENCODER_TASK, (Stage("all", 5, 1e-3, {"emoji.captions": 4}),))
    adapt = Stage("adapt", 2, 1e-3, MIXTURE, ADAPTORS, "cosine", warmup_steps=1)
    tune = Stage("tune", 3, 1e-3, MIXTURE, ("*", "!generation.tokenizer.*"), weight_decay=0.1)
    return Run(kind, janus_task, (adapt, tune))


def train(run: Run, folder: Path, stop_after: int | None = None, runtime: Runtime = CPU) -> dict[str, torch.Tensor]:
    training = make_training(run)
    fit(training, run.stages, folder, runtime, schedule=Schedule(log_steps=1), stop_after=stop_after)
    return training.model.state_dict()


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["tokenizer", "encoder", "janus"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(kind, janus_task, tmp_path) -> None:
    run = run_of(kind, janus_task)
    whole = train(run, tmp_path / "whole")
    for stop_after in (1, 1, 2, None):  # at step 1, at the stage's border 2, inside the second stage 4, to the end
        parts = train(run, tmp_path / "parts", stop_after)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert len(losses(tmp_path / "whole")) == 5
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("kind", ["tokenizer", "encoder", "janus"])
def test_a_run_in_bfloat16_stays_near_float32(kind, janus_task, tmp_path) -> None:
    run = run_of(kind, janus_task)
    train(run, tmp_path / "exact")
    train(run, tmp_path / "rough", runtime=replace(CPU, weights="bfloat16"))
    assert losses(tmp_path / "rough") == pytest.approx(losses(tmp_path / "exact"), rel=0.05)


def test_a_log_file_gets_whole_lines_and_no_bars(janus_task, tmp_path, capsys) -> None:
    train(run_of("tokenizer", janus_task), tmp_path)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("all 5/5  ") and " steps/s  " in line and "  loss " in line and "…" not in line
    assert len(line) > 80  # not wrapped


def test_only_what_a_stage_trains_changes(janus_task, tmp_path) -> None:
    run = run_of("janus", janus_task)
    before = {name: t.clone() for name, t in make_training(run).model.state_dict().items()}
    after = train(replace(run, stages=run.stages[:1]), tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(
        name.startswith(("understanding.adaptor.", "generation.adaptor.", "generation.head.")) for name in changed
    )
    tuned = train(replace(run, stages=run.stages[1:]), tmp_path / "tuned")
    changed = {name for name in before if not torch.equal(before[name], tuned[name])}
    assert not any(name.startswith("generation.tokenizer.") for name in changed)
    assert {"understanding.encoder.patch.weight", "language_model.text_head.weight"} <= changed


def test_micro_batches_change_nothing_but_rounding(janus_task) -> None:
    gradients = []
    for rows in (1, 100):
        training = make_training(run_of("janus", replace(janus_task, micro_batch_rows=rows)))
        stage = Stage("all", 1, 1e-3, MIXTURE)
        batches = training.data(stage, 0)
        total = sum(training.num_targets(b) for b in batches)
        for batch in batches:
            (training.loss(training.model, batch, 0)[0] / total).backward()
        assert (len(batches) > 1) == (rows == 1)
        gradients.append({n: p.grad for n, p in training.model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6)


def test_the_loop_averages_over_the_whole_steps_targets(janus_task, tmp_path) -> None:
    figures = []
    for rows in (1, 100):
        run = run_of("janus", replace(janus_task, micro_batch_rows=rows))
        train(run, tmp_path / str(rows), 1)
        line = json.loads((tmp_path / str(rows) / "metrics.jsonl").read_text())
        figures.append([line[name] for name in ("loss", "text_loss", "image_loss", "grad_norm")])
    assert figures[0] == pytest.approx(figures[1], rel=1e-4)


def test_loss_is_that_of_each_document_alone(janus_task) -> None:
    """The oracle walks through every document by itself and asks each head for one position at a time."""
    training = janus_training(janus_task, 0)
    documents = [
        training.data.document(name, find_source(name, "conversations")("train", 0), index)
        for name, n in MIXTURE.items()
        for index in range(n)
    ]
    packed = training.loss(training.model, pack(documents, 160), 0)[0]
    alone = torch.tensor(0.0)
    for document in documents:
        batch = pack([document], 160)
        hidden = training.model(batch)[0]
        for t, (kind, target) in enumerate(zip(batch.target_kind[0].tolist(), batch.target[0], strict=True)):
            if kind == Kind.TEXT:
                alone = alone + 2.0 * F.cross_entropy(training.model.heads[Kind.TEXT](hidden[t]), target)
            elif kind == Kind.GENERATE:
                alone = alone + F.cross_entropy(training.model.heads[Kind.GENERATE](hidden[t]), target)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-3)


def kinds_in(batches: list[Batch]) -> set[int]:
    return set(torch.cat([b.kind.flatten() for b in batches]).tolist())


def test_every_step_holds_all_kinds_and_steps_differ(janus_task) -> None:
    training = janus_training(janus_task, 0)
    stage = Stage("s", 3, 1e-3, MIXTURE)
    steps = [list(training.data(stage, step)) for step in range(3)]
    assert all({Kind.TEXT, Kind.UNDERSTAND, Kind.GENERATE} <= kinds_in(batches) for batches in steps)
    assert all(sum(len(set(row.tolist()) - {-1}) for b in step for row in b.document) == 6 for step in steps)
    assert not torch.equal(steps[0][0].tokens, steps[1][0].tokens)
    assert torch.equal(training.data(stage, 1)[0].tokens, steps[1][0].tokens)


def test_a_tenth_of_the_captions_is_replaced_by_pads(janus_task) -> None:
    training = janus_training(janus_task, 0)
    source = find_source("emoji.drawings", "conversations")("train", 0)
    pad = training.checkpoint.processor.text.pad_id
    dropped = [pad in training.data.document("emoji.drawings", source, index)[0].ids for index in range(1000)]
    assert 0.07 < sum(dropped) / len(dropped) < 0.13
    for number in range(8):  # the eight drawings come round 125 times, now with their captions, now without
        assert {True, False} == set(dropped[number::8])


def test_nothing_but_captions_to_draw_is_replaced_by_pads(janus_task) -> None:
    training = janus_training(replace(janus_task, drop_caption=1.0), 0)
    pad = training.checkpoint.processor.text.pad_id
    for name, blanked in (("emoji.drawings", True), ("emoji.questions", False), ("emoji.texts", False)):
        for index in range(5):
            document = training.data.document(name, find_source(name, "conversations")("train", 0), index)
            assert any(pad in span.ids for span in document if isinstance(span, TextSpan)) == blanked


def test_captions_belong_to_the_tokenized_drawings_whatever_the_runs_seed(janus_task) -> None:
    training = janus_training(replace(janus_task, drop_caption=0.0), seed=5)
    (batch,) = training.data(Stage("s", 1, 1e-3, {"emoji.drawings": 1}), 0)
    user, assistant = find_source("emoji.drawings", "conversations")("train", 0)(0)  # seed 0 made the ids
    text_ids = batch.tokens[0, batch.kind[0] == Kind.TEXT].tolist()
    assert training.checkpoint.processor.text.decode(text_ids) == f"User: {user.content[0]}\n\nAssistant:"
    pixels = generation_pixels(assistant.content[0], 16)[None]
    drawn = batch.tokens[0, batch.kind[0] == Kind.GENERATE]
    assert torch.equal(drawn, training.model.generation.tokenizer.encode(pixels)[0])


def test_image_ids_of_another_tokenizer_are_refused(janus_task) -> None:
    torch.manual_seed(1)
    with pytest.raises(ValueError, match="another image tokenizer"):
        ImageIds.read(janus_task.image_ids).check(ImageTokenizer(tiny.IMAGE_TOKENIZER))


def test_missing_and_damaged_image_ids_are_named(janus_task, tmp_path) -> None:
    with pytest.raises(ValueError, match="no such file; make it by `openjanus tokenize`"):
        ImageIds.read(str(tmp_path / "none"))
    (tmp_path / "half").write_bytes(Path(janus_task.image_ids).read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"half: damaged .*make it again"):
        ImageIds.read(str(tmp_path / "half"))


def test_image_ids_that_there_is_no_room_for_leave_nothing(janus_task, tmp_path, monkeypatch) -> None:
    def full(tensors, path: Path, meta) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(tokenizing, "save_file", full)
    with pytest.raises(OSError, match=r"ids: cannot be written \(No space left on device\)"):
        tokenize_source(starting_tokenizer(janus_task), "emoji.drawings", 0, 1, tmp_path / "ids")
    assert not list(tmp_path.iterdir())


def test_image_ids_are_those_of_the_drawings(janus_task, tmp_path) -> None:
    tokenizer = starting_tokenizer(janus_task)
    image_ids = ImageIds.read(janus_task.image_ids)
    image_ids.check(tokenizer)
    assert (len(image_ids), image_ids.source, image_ids.seed) == (8, "emoji.drawings", 0)
    tokenize_source(tokenizer, "emoji.drawings", 3, 2, tmp_path / "other")
    assert ImageIds.read(str(tmp_path / "other")).seed == 3
    for index in range(8):
        picture = find_source("emoji.drawings", "conversations")("train", 0)(index)[1].content[0]
        assert image_ids[index].tolist() == tokenizer.encode(generation_pixels(picture, 16)[None])[0].tolist()


def test_a_log_cut_in_mid_line_reads_as_one_run_again(janus_task, tmp_path) -> None:
    run = run_of("encoder", janus_task)
    train(run, tmp_path, 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "stage": "all", "loss": 1.0}\n{"step": 4, "st')  # killed two steps later
    train(run, tmp_path, 1)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[2]["loss"] != 1.0 and all(isfinite(line["loss"]) and line["stage"] == "all" for line in lines)


class Slide(Training):
    """The smallest training: its gradient is always one, so that AdamW moves by just the learning rate."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__(torch.nn.Linear(1, 1, bias=bias), self.batches_of, self.loss_of, num_targets=int)
        self.made: list[tuple[str, int]] = []  # stage and step of each call for data
        self.lost: list[int] = []  # the step of each loss

    def batches_of(self, stage: Stage, step: int) -> list[torch.Tensor]:
        self.made.append((stage.name, step))
        return [torch.tensor(1), torch.tensor(2)]

    def loss_of(self, model: torch.nn.Module, batch: torch.Tensor, step: int):
        self.lost.append(step)
        return batch * model.weight.sum(), {}


def test_each_step_moves_by_its_own_stages_learning_rate(tmp_path) -> None:
    stages = (
        Stage("up", 3, 0.1, {"a": 1}, warmup_steps=3),
        Stage("down", 4, 0.8, {"a": 1}, schedule="cosine"),
    )
    training, weights = Slide(), []

    def remember(model, step: int, folder: Path) -> dict[str, float]:
        weights.append(model.weight.item())
        return {}

    start = training.model.weight.item()
    fit(training, stages, tmp_path, CPU, [remember], Schedule(log_steps=1, evaluate_steps=1))
    rates = [stage.lr_at(step) for stage in stages for step in range(stage.num_steps)]
    moved = [before - after for before, after in zip([start, *weights], weights, strict=False)]
    assert moved == pytest.approx(rates, abs=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines] == pytest.approx(rates, abs=1e-6)
    # batches and losses are asked for by the step of the whole run
    assert training.made == [*(("up", i) for i in range(3)), *(("down", i) for i in range(3, 7))]
    assert training.lost == [step for step in range(7) for _ in range(2)]  # of both batches


def test_evaluators_see_the_model_at_rest_and_their_figures_are_logged(janus_task, tmp_path) -> None:
    run, seen = run_of("encoder", janus_task), []

    def evaluator(model, step: int, folder: Path) -> dict[str, float]:
        seen.append((step, model.training, torch.is_grad_enabled(), folder.is_dir()))
        return {"score": step / 10}

    training = make_training(run)
    fit(training, run.stages, tmp_path, CPU, [evaluator], Schedule(log_steps=1, evaluate_steps=2))
    assert seen == [(step, False, False, True) for step in (2, 4, 5)]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"]: line["score"] for line in lines if "score" in line} == {2: 0.2, 4: 0.4, 5: 0.5}


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(janus_task, tmp_path) -> None:
    run = run_of("encoder", janus_task)
    train(run, tmp_path, 2)
    training = make_training(run)
    kept = load_file(tmp_path / "checkpoints" / "00000002" / "model.safetensors")
    original = training.loss
    training.loss = lambda *a: (original(*a)[0] * float("nan"), {})
    with pytest.raises(FloatingPointError, match="not finite"):
        fit(training, run.stages, tmp_path, CPU)
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest is not None and newest.name == "00000002"
    assert all(torch.equal(t, kept[name]) for name, t in load_file(newest / "model.safetensors").items())
    assert not list((tmp_path / "checkpoints").glob(".draft*"))


class TwoPlayers(Slide):
    """Two parameters that are clipped apart; the gradient of the second is not finite."""

    def __init__(self) -> None:
        super().__init__(bias=True)
        self.clipped_apart = ("weight", "bias")

    def loss_of(self, model: torch.nn.Module, batch: torch.Tensor, step: int):
        return batch * (model.weight.sum() + float("nan") * model.bias.sum().pow(2)), {}


def test_a_gradient_that_is_not_finite_is_seen_in_every_clip_group(tmp_path) -> None:
    with pytest.raises(FloatingPointError, match="step 0: the gradient is not finite"):
        fit(TwoPlayers(), (Stage("s", 1, 0.1, {"a": 1}),), tmp_path, CPU)
    assert checkpoint.latest(tmp_path / "checkpoints") is None


class Broken(Slide):
    """The gradient of one step is not finite."""

    def loss_of(self, model: torch.nn.Module, batch: torch.Tensor, step: int):
        return batch * model.weight.sum() * (float("inf") if step == 4 else 1.0), {}


@pytest.mark.parametrize(("seconds", "newest"), [(1e9, None), (0.0, "00000004")])
def test_no_checkpoint_holds_what_a_broken_gradient_did(seconds, newest, tmp_path) -> None:
    """It is looked at before each log line and each checkpoint, and the step that broke is named."""
    stages = (Stage("s", 9, 0.1, {"a": 1}),)
    with pytest.raises(FloatingPointError, match=r"step 4: the gradient is not finite; .*stages\.s\.lr=0\.05"):
        fit(Broken(), stages, tmp_path, CPU, schedule=Schedule(log_steps=8, checkpoint_seconds=seconds))
    found = checkpoint.latest(tmp_path / "checkpoints")
    assert (found.name if found else None) == newest


def test_the_best_weights_are_kept_besides_the_last(tmp_path) -> None:
    """By the evaluators' held_out_loss; a resumed run remembers what the best was."""
    losses, weights = [9.0, 3.0, 4.0, 2.0, 5.0, 6.0], {}
    schedule = Schedule(evaluate_steps=1, evaluate_first=True)

    def evaluator(model, step: int, folder: Path) -> dict[str, float]:
        weights[step] = model.weight.item()
        return {"held_out_loss": losses[step]}

    for steps, best in ((1, 1), (1, 1), (1, 3), (2, 3)):
        fit(training := Slide(), (Stage("s", 5, 0.1, {"a": 1}),), tmp_path, CPU, [evaluator], schedule, steps)
        (kept,) = [p for p in (tmp_path / "best").iterdir() if p.name.isdigit()]
        assert kept.name == f"{best:08d}" and checkpoint.read_state(kept)["held_out_loss"] == losses[best]
        assert load_file(kept / "model.safetensors")["weight"].item() == weights[best]
    assert training.model.weight.item() == weights[5]
    shutil.rmtree(tmp_path / "checkpoints")  # the run begins anew, and so does its best
    losses[1:] = [8.0, 7.0, 8.0, 8.0, 8.0]
    fit(Slide(), (Stage("s", 5, 0.1, {"a": 1}),), tmp_path, CPU, [evaluator], schedule)
    assert [p.name for p in (tmp_path / "best").iterdir()] == ["00000002"]


def test_a_training_can_start_from_a_whole_checkpoint(janus_task, tmp_path) -> None:
    checkpoints.save(tiny.checkpoint(), tmp_path / "start")
    task = replace(janus_task, start=str(tmp_path / "start"), image_ids=str(tmp_path / "ids"))
    with pytest.raises(ValueError, match="openjanus tokenize"):
        janus_training(task, 0).inputs()
    tokenize_source(starting_tokenizer(task), "emoji.drawings", 0, 8, tmp_path / "ids")
    assert tiny.equal_trees(janus_training(task, 0).model.state_dict(), tiny.janus().state_dict())


def test_a_log_line_never_averages_over_a_stages_border(janus_task, tmp_path) -> None:
    run = run_of("janus", janus_task)
    fit(make_training(run), run.stages, tmp_path, CPU, schedule=Schedule(log_steps=4))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["stage"]) for line in lines] == [(2, "adapt"), (4, "tune"), (5, "tune")]


@pytest.mark.parametrize("reads", [(), ("elsewhere.",), ("weight",)])
def test_the_next_steps_data_is_made_while_a_step_runs_unless_the_step_changes_it(reads, tmp_path) -> None:
    made: list[tuple[int, bool]] = []

    def data(stage: Stage, step: int) -> list[torch.Tensor]:
        made.append((step, threading.current_thread() is threading.main_thread()))
        return [torch.ones(1)]

    training = replace_data(Slide(), data, reads)
    stages = tuple(Stage(name, 3, 0.1, {"a": 1}) for name in ("one", "two"))
    fit(training, stages, tmp_path, CPU, stop_after=5)
    assert [step for step, _ in made] == [0, 1, 2, 3, 4]  # each once, in order, none beyond the end
    assert [in_main for _, in_main in made] == [reads == ("weight",)] * 5


def test_data_that_cannot_be_made_ends_the_training_at_its_step(tmp_path) -> None:
    def data(stage: Stage, step: int) -> list[torch.Tensor]:
        if step == 3:
            raise ValueError("step 3 has no data")
        return [torch.ones(1)]

    training = replace_data(Slide(), data, ())
    with pytest.raises(ValueError, match="step 3 has no data"):
        fit(training, (Stage("one", 9, 0.1, {"a": 1}),), tmp_path, CPU, schedule=Schedule(log_steps=1))
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]


def replace_data(training: Training, data, reads: tuple[str, ...]) -> Training:
    training.data, training.data_reads = data, reads
    return training
