"""The model card of a result, the licence of its base, and the way to the hub."""

from pathlib import Path

import huggingface_hub
import pytest

from openjanus.cli import main
from openjanus.recipes import configure
from openjanus.recipes.cards import card
from openjanus.testing import tiny_checkpoint
from tests.readers.files import write_jsonl, write_pictures


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cards")
    base = tiny_checkpoint(folder / "base", "official")
    (base / "LICENSE-MODEL").write_text("the licence of the base")
    write_pictures(folder / "my", range(4))
    write_jsonl(folder / "my" / "metadata.jsonl", [{"file_name": f"{n}.png", "text": f"a cat {n}"} for n in range(4)])
    words = [f"start={base}", f"data={folder / 'my'}", "stages.tune.num_steps=1", "task.row_tokens=256"]
    words += ["data.use=draw", "schedule.evaluate_first=false"]
    main(["train", "finetune.lora", *words, "--out", str(folder / "run")])
    return folder


def test_an_adapter_and_a_merged_model_have_a_card_and_the_licence(tuned) -> None:
    main(["convert", str(tuned / "run"), str(tuned / "merged"), "--format", "official"])
    for result, what in (("run/adapter", "An adapter (LoRA) for a Janus"), ("merged", "A Janus")):
        said = (tuned / result / "README.md").read_text()
        assert f"{what}: it understands and draws" in said and f"`{tuned / 'base'}`" in said
        assert f"`{tuned / 'my'}`, captions drawn" in said and '"name": "finetune.lora"' in said
        assert (tuned / result / "LICENSE-MODEL").read_text() == "the licence of the base"


def test_a_card_that_is_there_stays(tuned) -> None:
    target = tuned / "again"
    target.mkdir()
    (target / "README.md").write_text("mine")
    main(["convert", str(tuned / "run"), str(target)])
    assert (target / "README.md").read_text() == "mine"


def test_the_metadata_names_published_bases(tmp_path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}])
    run = configure("janus-1.3b", [f"data.texts.path={path}"])
    said = card(run, is_adapter=False)
    head = said.split("---")[1]
    assert "- deepseek-ai/deepseek-llm-1.3b-base" in head and "- google/siglip-large-patch16-384" in head
    assert "vq_ds16_t2i.pt" not in head and "generation.tokenizer: `vq_ds16_t2i.pt`" in said and "214,000 steps" in said


def test_push_uploads_a_folder_and_nothing_hidden(tuned, monkeypatch, capsys) -> None:
    asked = []
    monkeypatch.setattr(
        huggingface_hub.HfApi, "create_repo", lambda self, name, **options: asked.append((name, options))
    )
    monkeypatch.setattr(
        huggingface_hub.HfApi, "upload_folder", lambda self, **options: asked.append(options) or "https://hub/mine"
    )
    main(["push", str(tuned / "run" / "adapter"), "me/mine", "--private"])
    assert capsys.readouterr().out.strip() == "https://hub/mine"
    (name, made), sent = asked
    assert name == sent["repo_id"] == "me/mine" and made == {"private": True, "exist_ok": True}
    assert sent["folder_path"] == tuned / "run" / "adapter" and ".*" in sent["ignore_patterns"]


def test_what_cannot_be_pushed_is_told(tuned, tmp_path, monkeypatch, capsys) -> None:
    def told(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["push", *words])
        assert ended.value.code == 2
        return capsys.readouterr().err

    assert "no config.json and no adapter_config.json" in told(str(tmp_path), "me/mine")
    (tmp_path / "config.json").write_text("{}")
    assert "no README.md; write a model card" in told(str(tmp_path), "me/mine")
    assert "expected owner/name" in told(str(tuned / "run" / "adapter"), "a/b/c")

    def refuses(self, name, **options):
        raise OSError("no\nroute")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuses)
    assert "me/mine: the hub did not take it (no route)" in told(str(tuned / "run" / "adapter"), "me/mine")
