"""Fine-tuning: what belongs to the checkpoint that it starts from stays with it, but for what is asked to change."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from openjanus.cli import main
from openjanus.eyes.contrastive import ContrastiveTraining, contrastive_training
from openjanus.processing.image import PixelConfig
from openjanus.processing.processor import ProcessorConfig
from openjanus.recipes import configure, evaluators
from openjanus.recipes.evaluators import keep_result
from openjanus.recipes.tokenizing import tokenize_source
from openjanus.runtime import Runtime
from openjanus.testing import TINY, tiny_checkpoint
from openjanus.training.janus import JanusTraining, janus_training, starting_tokenizer
from openjanus.training.run import Run, train
from openjanus.training.stage import Stage
from openjanus.weights import checkpoint
from tests import tiny

CPU = Runtime(torch.device("cpu"), "float32", "test")
STAGE = Stage("tune", 1, 1e-3, {"emoji.questions": 1, "emoji.drawings": 2})
SAMPLING = {"guidance": 3.0, "temperature": 0.5}
PROCESSOR = ProcessorConfig(PixelConfig(64))
PIXELS = PixelConfig(64, background=(1, 2, 3), mean=(0.4, 0.4, 0.4))


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A checkpoint in the manner of Janus-Pro, with settings that no recipe has."""
    folder = tmp_path_factory.mktemp("start")
    kept = checkpoint.load(tiny_checkpoint(folder / "official", "official", "deepseek"))
    kept.processor.config = replace(kept.processor.config, pixels=PIXELS)
    kept.sampling = SAMPLING
    checkpoint.save(kept, folder / "own")
    return folder / "own"


@pytest.fixture
def task(start, tmp_path) -> JanusTraining:
    task = JanusTraining(str(start), str(tmp_path / "ids"), row_tokens=600)
    tokenize_source(starting_tokenizer(task), "emoji.drawings", 0, 2, tmp_path / "ids")
    return task


def test_a_fine_tuned_checkpoint_keeps_its_settings_and_vocabulary(task, start, tmp_path) -> None:
    run = Run("tune", task, (STAGE,))
    tuned = checkpoint.load(keep_result(train(run, tmp_path / "run", CPU), tmp_path / "run"))
    before = checkpoint.load(start)
    assert tuned.config == before.config
    assert tuned.processor.config.template == "deepseek" and tuned.processor.config.system_prompt
    assert tuned.sampling == SAMPLING
    assert tuned.processor.text.tokenizer.get_vocab() == before.processor.text.tokenizer.get_vocab()
    assert tuned.processor.text.special_id("<|User|>") is not None
    changed = before.model.state_dict()
    assert any(not torch.equal(tensor, changed[name]) for name, tensor in tuned.model.state_dict().items())


def test_its_examples_are_written_by_its_own_template(task) -> None:
    training = janus_training(task, 0)
    user = training.checkpoint.processor.text.special_id("<|User|>")
    batches = training.data(STAGE, 0)
    assert user is not None and sum(int((batch.tokens == user).sum()) for batch in batches) >= 3


def test_a_recipe_starts_from_any_checkpoint_and_overrides_alter_its_settings(start, tmp_path) -> None:
    own = configure("nano.longer", [f"task.start={start}"])
    assert isinstance(own.task, JanusTraining)
    overrides = ["task.processor.system_prompt=Be brief.", "task.sampling.guidance=4.0", f"task.start={start}"]
    altered = configure("nano.longer", overrides)
    assert isinstance(altered.task, JanusTraining)
    before = checkpoint.load(start).config
    assert janus_training(own.task, 0).checkpoint.config == before
    config = janus_training(altered.task, 0).checkpoint.config
    assert config.processor == replace(before.processor, system_prompt="Be brief.")
    assert config.sampling == {**SAMPLING, "guidance": 4.0}
    assert config.model == before.model
    misspelt = configure("nano.longer", ["task.processor.sytem_prompt=x", f"task.start={start}"])
    with pytest.raises(ValueError, match="unknown key 'sytem_prompt'; did you mean 'system_prompt'"):
        janus_training(misspelt.task, 0)


def test_recipes_from_nothing_are_overridden_as_ever() -> None:
    run = configure("nano.janus", ["seed=3", "task.processor.system_prompt=Be brief.", "task.sampling.guidance=2.0"])
    assert isinstance(run.task, JanusTraining) and run.task.processor is not None
    assert (run.seed, run.task.processor.system_prompt, run.task.sampling["guidance"]) == (3, "Be brief.", 2.0)
    assert run.task.changes == ()


def test_the_commands_of_a_fine_tuning(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluators, "evaluators_of", lambda trained: ())  # the preview has a test of its own
    start = tiny_checkpoint(tmp_path / "pro", "official", "deepseek")
    overrides = [
        f"task.start={start}", "task.row_tokens=600", "task.processor.system_prompt=Be brief.",
        "stages.tune.num_steps=1", 'stages.tune.mixture={"emoji.questions": 1, "emoji.drawings": 2}',
    ]  # fmt: skip
    main(["tokenize", "nano.longer", *overrides, "--num", "2"])
    main(["train", "nano.longer", *overrides])
    assert capsys.readouterr().out.startswith("runs/nano.longer_ids.safetensors\n")
    before, tuned = (checkpoint.read_config(folder) for folder in (start, Path("runs/nano.longer/model")))
    assert tuned[0].processor == replace(before[0].processor, system_prompt="Be brief.")
    assert tuned[0].model == before[0].model and tuned[1].vocab_size == before[1].vocab_size


def test_settings_of_the_task_that_give_way_to_the_checkpoints_are_named(task) -> None:
    with pytest.warns(UserWarning, match="processor is that of .*`changes` can alter it"):
        janus_training(replace(task, model=TINY, processor=PROCESSOR), 0)


def test_a_training_says_what_its_start_lacks(task) -> None:
    with pytest.raises(ValueError, match=r"start is empty, expected a Janus .* or a table of language_model, "):
        janus_training(replace(task, start=""), 0)
    with pytest.raises(ValueError, match=r"names no language_model and no understanding.encoder .*give a model"):
        janus_training(replace(task, start={"text_tokenizer": "emoji"}), 0)


def test_trainings_from_nothing_read_the_text_tokenizer_that_is_named(task, start) -> None:
    vocab_size = checkpoint.load(start).processor.text.vocab_size
    from_nothing = replace(task, start={"text_tokenizer": "emoji"}, model=TINY, processor=PROCESSOR)
    assert janus_training(from_nothing, 0).data.processor.text.vocab_size == 1024
    for name in (start, start / "tokenizer.json"):
        named = replace(from_nothing, start={"text_tokenizer": str(name)})
        assert janus_training(named, 0).data.processor.text.vocab_size == vocab_size
        towers = ContrastiveTraining(
            replace(tiny.VISION_ENCODER, pooling_head=True), 1, 2, 32, text_tokenizer=str(name)
        )
        training = contrastive_training(towers, 0)
        assert training.data.text.vocab_size == training.model.text_tower.embedding.num_embeddings == vocab_size
    with pytest.raises(ValueError, match="names neither a language_model nor a text_tokenizer"):
        janus_training(replace(from_nothing, start={}), 0)
    with pytest.raises(
        ValueError, match=r"text_tokenizer names none, expected emoji, emoji\.wide, emoji\.languages, a file"
    ):
        contrastive_training(replace(towers, text_tokenizer=""), 0)
    small = replace(TINY, language_model=replace(TINY.language_model, vocab_size=1024))
    with pytest.raises(ValueError, match=f"the text tokenizer has {vocab_size} ids, the model only 1024"):
        janus_training(replace(named, model=small), 0)
