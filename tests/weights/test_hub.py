"""Where a checkpoint is: the bundled model, a folder, a run, or the hub, which is asked for the config first."""

import json
import shutil
from dataclasses import replace
from fnmatch import fnmatchcase
from operator import attrgetter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import openjanus
from openjanus.cli import main
from openjanus.recipes import find_recipe
from openjanus.starting.parts import read_part
from openjanus.testing import tiny_checkpoint, tiny_janus
from openjanus.training.janus import JanusTraining, starting_tokenizer
from openjanus.weights import checkpoint, hub
from openjanus.weights.hub import BUNDLED, find_checkpoint
from tests.tiny import equal_trees

JANUS_FLOW = {
    "model_type": "multi_modality",
    "language_config": {"model_type": "llama"},
    "vision_und_enc_config": {"cls": "CLIPVisionTower", "params": {}},
    "vision_gen_enc_config": {"cls": "ShallowUViTEncoder", "params": {}},
    "vision_gen_dec_config": {"cls": "ShallowUViTDecoder", "params": {}},
}
DEEPSEEK_VL = {
    "model_type": "multi_modality",
    "language_config": {"model_type": "llama"},
    "vision_config": {"cls": "HybridVisionTower", "params": {}},
    "aligner_config": {"cls": "MlpProjector", "params": {}},
}
RELATIVES = {
    "JanusFlow": JANUS_FLOW,
    "DeepSeek-VL": DEEPSEEK_VL,
    "'deepseek_vl_hybrid'": {"model_type": "deepseek_vl_hybrid"},
}


class Hub:
    """A hub with one repository, a folder here; notes which of its files were downloaded, in order."""

    def __init__(self, repository: Path, cache: Path):
        self.repository, self.cache = repository, cache
        self.downloads: list[str] = []

    def snapshot_download(self, name: str, revision: str | None, allow_patterns: list[str]) -> str:
        self.cache.mkdir(exist_ok=True)
        for path in sorted(self.repository.iterdir()):
            wanted = any(fnmatchcase(path.name, pattern) for pattern in allow_patterns)
            if wanted and not (self.cache / path.name).exists():
                shutil.copyfile(path, self.cache / path.name)
                self.downloads.append(path.name)
        return str(self.cache)


@pytest.fixture
def repository(tmp_path) -> Path:
    return tiny_checkpoint(tmp_path / "repository", "official")


@pytest.fixture
def fake_hub(repository, tmp_path, monkeypatch) -> Hub:
    fake = Hub(repository, tmp_path / "cache")
    monkeypatch.setattr(hub, "snapshot_download", fake.snapshot_download)
    return fake


def test_nano_is_the_bundled_model_whatever_lies_here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint("nano")
    assert find_checkpoint("nano") == BUNDLED / "nano"
    for source in ("./nano", str(tmp_path / "nano"), Path("nano")):
        assert find_checkpoint(source).absolute() == tmp_path / "nano"
    with pytest.raises(ValueError, match="nano is bundled: a revision belongs to a hub id"):
        find_checkpoint("nano", "main")


def test_nano_is_the_bundled_model_for_every_command_and_training(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint("nano")
    Path("nano/run.json").write_text("{}")  # as `train --out nano` leaves it
    main(["convert", "nano", "converted"])
    run = find_recipe("nano.longer")()
    assert isinstance(run.task, JanusTraining)
    task = replace(run.task, start="nano")
    for tokenizer in (
        checkpoint.load(Path("converted")).model.generation.tokenizer,
        openjanus.load("nano", "cpu").model.generation.tokenizer,
        starting_tokenizer(task),
    ):
        assert tokenizer.config.num_ids == 1024


def test_a_run_stands_for_the_model_that_it_ended_with(tmp_path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"a run without a finished model.*openjanus convert"):
        find_checkpoint(run)
    tiny_checkpoint(run / "model")
    assert find_checkpoint(run) == run / "model"
    assert openjanus.load(run, "cpu").sizes_px == (64,)


@pytest.mark.parametrize("relative", RELATIVES)
def test_a_relative_of_janus_is_named(relative, tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RELATIVES[relative]))
    with pytest.raises(ValueError) as error:
        checkpoint.load(tmp_path)
    for word in (relative, "Janus-1.3B", "Janus-Pro-7B", "transformers"):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", [*RELATIVES.values(), {"model_type": "multi_modality", "audio_config": {}}])
def test_a_config_that_is_refused_is_refused_before_the_weights_are_downloaded(config, fake_hub, repository) -> None:
    whole = config if "audio_config" not in config else json.loads((repository / "config.json").read_text()) | config
    (repository / "config.json").write_text(json.dumps(whole))
    with pytest.raises(ValueError):
        find_checkpoint("owner/name")
    assert "config.json" in fake_hub.downloads
    assert not [name for name in fake_hub.downloads if name.endswith(("safetensors", "bin"))]


def test_an_ignored_key_does_not_stop_the_download(fake_hub, repository) -> None:
    config = json.loads((repository / "config.json").read_text()) | {"stranger": 1}
    (repository / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="stranger"):
        openjanus.load("owner/name", "cpu")
    assert openjanus.load("owner/name", "cpu", ignore_config_keys=("stranger",)).sizes_px == (64,)


def test_pickled_weights_are_downloaded_only_where_there_are_no_others(fake_hub, repository) -> None:
    state = load_file(repository / "model.safetensors")
    torch.save(state, repository / "pytorch_model.bin")
    checkpoint.load(find_checkpoint("owner/name"))
    assert fake_hub.downloads[-1] == "model.safetensors" and "pytorch_model.bin" not in fake_hub.downloads
    shutil.rmtree(fake_hub.cache)
    (repository / "model.safetensors").unlink()
    checkpoint.load(find_checkpoint("owner/name"))
    assert fake_hub.downloads[-1] == "pytorch_model.bin"


def test_shards_are_downloaded_with_their_index(fake_hub, repository) -> None:
    state = load_file(repository / "model.safetensors")
    (repository / "model.safetensors").unlink()
    names = sorted(state)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in files.items():
        save_file({name: state[name] for name in members}, repository / file)
    index = {"weight_map": {name: file for file, members in files.items() for name in members}}
    (repository / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint.load(find_checkpoint("owner/name"))
    assert fake_hub.downloads[-2:] == list(files)


@pytest.mark.parametrize("name", ["language_model", "understanding.encoder", "generation.tokenizer"])
def test_a_part_of_a_janus_on_the_hub_is_checked_before_its_weights_are_downloaded(name, repository, fake_hub) -> None:
    wanted = checkpoint.load(repository).model
    part = read_part(name, "owner/name", image_size_px=64)
    assert fake_hub.downloads[-1] == "model.safetensors" and fake_hub.downloads.count("model.safetensors") == 1
    module = attrgetter(name)(tiny_janus(seed=1))
    part.fill(module)
    assert equal_trees(module.state_dict(), attrgetter(name)(wanted).state_dict())
