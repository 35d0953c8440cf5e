"""The one loop: exact resume, global token counts, frozen parts, and what a step holds, for all three objectives."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from openjanus.data.image_ids import tokenize_source
from openjanus.data.sources import SOURCES
from openjanus.model.image_tokenizer import ImageTokenizer
from openjanus.runtime import Runtime
from openjanus.sequence import Batch, Kind, pack
from openjanus.training import checkpoint
from openjanus.training.contrastive import ContrastiveObjective, ContrastiveTraining, TwoTowers
from openjanus.training.janus import JanusObjective, JanusTraining, starting_tokenizer
from openjanus.training.loop import Schedule, fit
from openjanus.training.run import Run, make_objective
from openjanus.training.stage import Stage
from openjanus.training.tokenizer import TokenizerAndDiscriminator, TokenizerTraining
from openjanus.weights import checkpoint as checkpoints
from tests import tiny

CPU = Runtime(torch.device("cpu"), torch.float32, "test")
ENCODER = replace(tiny.VISION_ENCODER, pooling_head=True)
TOKENIZER_TASK = TokenizerTraining(
    tiny.IMAGE_TOKENIZER, l1_weight=1.0, perceptual_weight=0.0, discriminator_width=8, discriminator_start=2,
    quantise_start=1, revive_steps=2,
)  # fmt: skip
ENCODER_TASK = ContrastiveTraining(ENCODER, 1, 2, 32, num_text_tokens=24, bias=-2.0)
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
        stage = Stage("none", 0, 0.0, {})
        optimizer = torch.optim.AdamW(model.parameters())
        checkpoint.save(folder / name / "checkpoints", model, optimizer, {"step": 1, "stage": stage.name})
    ids = folder / "ids.safetensors"
    tokenize_source(eyes.tokenizer, "emoji.drawings", 0, 8, ids)
    return JanusTraining(
        tiny.CONFIG,
        tiny.PROCESSOR,
        tokenizer_from=str(folder / "tokenizer"),
        encoder_from=str(folder / "encoder"),
        image_ids=str(ids),
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


def train(run: Run, folder: Path, stop_after: int | None = None) -> dict[str, torch.Tensor]:
    objective = make_objective(run)
    fit(objective, run.stages, folder, CPU, schedule=Schedule(log_steps=1), stop_after=stop_after)
    return objective.model.state_dict()


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


def test_only_what_a_stage_trains_changes(janus_task, tmp_path) -> None:
    run = run_of("janus", janus_task)
    before = {name: t.clone() for name, t in make_objective(run).model.state_dict().items()}
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
        objective = make_objective(run_of("janus", replace(janus_task, micro_batch_rows=rows)))
        stage = Stage("all", 1, 1e-3, MIXTURE)
        batches = objective.micro_batches(stage, 0)
        total = sum(objective.count(b) for b in batches)
        for batch in batches:
            (objective.loss(batch, stage, 0)[0] / total).backward()
        assert (len(batches) > 1) == (rows == 1)
        gradients.append({n: p.grad for n, p in objective.model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6)


def test_loss_is_that_of_each_document_alone(janus_task) -> None:
    """The oracle walks through every document by itself and asks each head for one position at a time."""
    objective = JanusObjective(janus_task, 0)
    documents = [
        objective._document(name, SOURCES[name]("train", 0), index) for name, n in MIXTURE.items() for index in range(n)
    ]
    packed = objective.loss(pack(documents, 160), Stage("s", 1, 0.0, {}), 0)[0]
    alone = torch.tensor(0.0)
    for document in documents:
        batch = pack([document], 160)
        hidden = objective.model(batch)[0]
        for t, (kind, target) in enumerate(zip(batch.target_kind[0].tolist(), batch.target[0], strict=True)):
            if kind == Kind.TEXT:
                alone = alone + 2.0 * F.cross_entropy(objective.model.text_logits(hidden[t]), target)
            elif kind == Kind.GENERATE:
                alone = alone + F.cross_entropy(objective.model.image_logits(hidden[t]), target)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-3)


def kinds_in(batches: list[Batch]) -> set[int]:
    return set(torch.cat([b.kind.flatten() for b in batches]).tolist())


def test_every_step_holds_all_kinds_and_steps_differ(janus_task) -> None:
    objective = JanusObjective(janus_task, 0)
    stage = Stage("s", 3, 0.0, MIXTURE)
    steps = [list(objective.micro_batches(stage, step)) for step in range(3)]
    assert all({Kind.TEXT, Kind.UNDERSTAND, Kind.GENERATE} <= kinds_in(batches) for batches in steps)
    assert not torch.equal(steps[0][0].tokens, steps[1][0].tokens)
    assert torch.equal(objective.micro_batches(stage, 1)[0].tokens, steps[1][0].tokens)


def test_a_tenth_of_the_captions_is_replaced_by_pads(janus_task) -> None:
    objective = JanusObjective(janus_task, 0)
    source = SOURCES["emoji.drawings"]("train", 0)
    objective.image_ids.ids = objective.image_ids.ids.repeat(200, axis=0)  # an index of its own for each example
    pad = objective.processor.text.pad_id
    dropped = [pad in objective._document("emoji.drawings", source, index)[1].ids for index in range(1000)]
    assert 0.07 < sum(dropped) / len(dropped) < 0.13


def test_image_ids_of_another_tokenizer_are_refused(janus_task) -> None:
    torch.manual_seed(1)
    with pytest.raises(ValueError, match="another image tokenizer"):
        from openjanus.data.image_ids import ImageIds

        ImageIds.load(janus_task.image_ids, ImageTokenizer(tiny.IMAGE_TOKENIZER))


def test_a_folder_with_other_stages_is_refused(janus_task, tmp_path) -> None:
    run = run_of("encoder", janus_task)
    train(run, tmp_path, 1)
    with pytest.raises(ValueError, match="other stages"):
        train(replace(run, stages=(replace(run.stages[0], lr=1.0),)), tmp_path)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(janus_task, tmp_path) -> None:
    run = run_of("encoder", janus_task)
    train(run, tmp_path, 2)
    objective = make_objective(run)
    assert isinstance(objective, ContrastiveObjective)
    kept = load_file(tmp_path / "checkpoints" / "00000002" / "model.safetensors")
    original = objective.loss
    objective.loss = lambda *a: (original(*a)[0] * float("nan"), {})  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="not finite"):
        fit(objective, run.stages, tmp_path, CPU)
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest is not None and newest.name == "00000002"
    assert all(torch.equal(t, kept[name]) for name, t in load_file(newest / "model.safetensors").items())
    assert not list((tmp_path / "checkpoints").glob(".draft*"))


def test_a_training_can_start_from_a_whole_checkpoint(janus_task, tmp_path) -> None:
    checkpoints.save(tiny.checkpoint(), tmp_path / "start")
    task = replace(janus_task, start_from=str(tmp_path / "start"), image_ids=str(tmp_path / "ids"))
    with pytest.raises(ValueError, match="openjanus tokenize"):
        JanusObjective(task, 0)
    tokenize_source(starting_tokenizer(task), "emoji.drawings", 0, 8, tmp_path / "ids")
    assert tiny.equal_trees(JanusObjective(task, 0).model.state_dict(), tiny.janus().state_dict())
