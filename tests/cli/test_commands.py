"""The command line: bad input ends in one line and exit code 2, good input in files and answers."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import validate_repo_id
from PIL import Image
from safetensors.torch import load_file, save_file

import openjanus
from openjanus.cli import main
from openjanus.inference.engine import Engine
from openjanus.processing.message import Message
from openjanus.recipes import find_recipe
from openjanus.testing import tiny_checkpoint
from openjanus.weights import checkpoint, hub, own
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "model"
    checkpoint.save(tiny.checkpoint(), folder)
    return folder


@pytest.fixture
def picture(tmp_path) -> Path:
    Image.new("RGB", (30, 20), "red").save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def refusal(capsys, *words: str) -> str:
    """Runs a command that must fail; returns its one line."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in captured.err
    return lines[0]


def test_pictures_that_cannot_be_read(model, tmp_path, capsys) -> None:
    assert "no such file" in refusal(capsys, "ask", tmp_path / "no.png", "what is it?", "--model", model)
    (tmp_path / "text.png").write_text("not a picture")
    assert "not a readable picture" in refusal(capsys, "ask", tmp_path / "text.png", "what is it?", "--model", model)
    assert "picture" in refusal(capsys, "ask", tmp_path, "what is it?", "--model", model)


def test_empty_words_and_wrong_numbers(model, picture, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert "empty prompt" in refusal(capsys, "generate", "", "--model", model, "--out", out)
    assert "empty prompt" in refusal(capsys, "generate", "--model", model, "--out", out)
    assert "empty question" in refusal(capsys, "ask", picture, " ", "--model", model)
    assert "n is -1" in refusal(capsys, "generate", "a cat", "-n", "-1", "--model", model, "--out", out)
    assert "temperature is nan" in refusal(
        capsys, "generate", "a cat", "--temperature", "nan", "--model", model, "--out", out
    )
    assert "shorten" in refusal(capsys, "generate", "cat " * 300, "--model", model, "--out", out)
    assert not list(out.glob("*"))


def test_an_output_folder_that_cannot_be_written(model, picture, capsys) -> None:
    below_a_file = picture / "folder"
    assert "cannot write into it" in refusal(capsys, "generate", "a cat", "--model", model, "--out", below_a_file)


def test_damaged_checkpoints_name_the_tensor(model, tmp_path, capsys) -> None:
    changes = {
        "missing generation.head.out.bias": lambda t: t.pop("generation.head.out.bias"),
        "unknown stranger": lambda t: t.update(stranger=torch.zeros(1)),
        "language_model.norm.weight has shape [7]": lambda t: t.update({"language_model.norm.weight": torch.zeros(7)}),
    }
    for message, change in changes.items():
        checkpoint.save(tiny.checkpoint(), tmp_path / "bad")
        tensors = load_file(tmp_path / "bad" / "model.safetensors")
        change(tensors)
        save_file(tensors, tmp_path / "bad" / "model.safetensors")
        assert message in refusal(capsys, "generate", "a cat", "--model", tmp_path / "bad", "--out", tmp_path)
    assert "no such folder" in refusal(capsys, "generate", "a cat", "--model", tmp_path / "none", "--out", tmp_path)


def test_recipes_and_keys_that_do_not_exist_name_the_nearest(tmp_path, capsys) -> None:
    assert "did you mean 'nano.janus'" in refusal(capsys, "train", "nano.janu")
    out = ("--out", tmp_path / "run")
    assert "did you mean 'num_steps'" in refusal(capsys, "train", "nano.encoder", "stages.contrast.num_step=1", *out)
    assert "expected int" in refusal(capsys, "train", "nano.encoder", "stages.contrast.num_steps=many", *out)
    assert not (tmp_path / "run").exists()


def test_drawings_become_files_with_their_settings_inside(model, tmp_path, capsys) -> None:
    main(["generate", "a red car", "-n", "2", "--seed", "3", "--model", str(model), "--out", str(tmp_path / "new")])
    names = ["a-red-car-seed3-0.png", "a-red-car-seed3-1.png", "a-red-car-seed3-sheet.png"]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == names
    with Image.open(tmp_path / "new" / names[0]) as image:
        assert image.size == (16, 16)
        assert image.text["prompt"] == "a red car"
        assert image.text["seed"] == "3"
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "new" / name) for name in names]


def test_a_second_call_overwrites_nothing(model, tmp_path, capsys) -> None:
    written: dict[Path, bytes] = {}
    for settings in ((), ("--guidance", "2"), ("--guidance", "3")):
        for prompt in ("红苹果", "蓝色 🍎", "a" * 70, "a" * 70 + "b"):
            main(["generate", prompt, "-n", "2", *settings, "--model", str(model), "--out", str(tmp_path)])
            paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
            assert len(paths) == 3 and not written.keys() & set(paths)
            written |= {path: path.read_bytes() for path in paths}
    assert all(path.read_bytes() == data for path, data in written.items())
    assert sorted(written) == sorted(tmp_path.iterdir())
    assert tmp_path / "红苹果-seed0-1-2.png" in written and tmp_path / "红苹果-seed0-sheet-3.png" in written


def test_one_picture_of_a_prompt_is_drawn_alone(model, tmp_path, capsys) -> None:
    command = ["generate", "a red car", "a dog", "--seed", "3", "--model", str(model), "--out"]
    main([*command, str(tmp_path / "all"), "-n", "4"])
    main([*command, str(tmp_path / "one"), "-n", "1", "--first", "2"])
    names = ["a-dog-seed3-2.png", "a-red-car-seed3-2.png", "a-red-car-seed3-sheet.png"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == names
    for name in names[:2]:
        with Image.open(tmp_path / "one" / name) as one, Image.open(tmp_path / "all" / name) as whole:
            assert one.tobytes() == whole.tobytes() and one.text["index"] == whole.text["index"] == "2"
    assert "pictures 64 to 64" in refusal(capsys, *command, tmp_path, "--first", "64")


def test_each_picture_is_written_as_soon_as_it_is_finished(model, tmp_path, monkeypatch, capsys) -> None:
    found = []

    def draw(self, prompts, options, *settings):
        for place in range(3):
            yield place, Image.new("RGB", (16, 16))
            found.append(len(list(tmp_path.iterdir())))
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Engine, "draw", draw)
    with pytest.raises(SystemExit):
        main(["generate", "a red car", "-n", "4", "--model", str(model), "--out", str(tmp_path)])
    assert found == [1, 2, 3]
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / f"a-red-car-seed0-{k}.png") for k in range(3)]


def test_a_sheet_is_left_out_where_it_would_be_huge(model, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("openjanus.picture_files.MAX_ON_SHEET", 2)
    main(["generate", "a red car", "-n", "3", "--model", str(model), "--out", str(tmp_path)])
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 3 and "no contact sheet: it has room for 2 pictures" in captured.err


def test_speculative_drawings_are_the_same_and_a_wrong_window_is_refused(model, tmp_path, capsys) -> None:
    command = ["generate", "a red car", "--model", str(model)]
    pictures = []
    for window in ("0", "8"):
        main([*command, "--out", str(tmp_path / window), "--speculative", window])
        pictures.append(Path(capsys.readouterr().out.strip()).read_bytes())
    assert pictures[0] == pictures[1]
    assert "speculative is 1, expected 0 (off) or" in refusal(capsys, *command, "--out", tmp_path, "--speculative", "1")


def test_an_answer_is_printed(model, picture, capsys) -> None:
    main(["ask", str(picture), "what is it?", "--model", str(model), "--max-new-tokens", "4"])
    assert capsys.readouterr().out.endswith("\n")


def test_convert_writes_every_format(tmp_path, capsys) -> None:
    folder = tiny_checkpoint(tmp_path / "official", "official")
    for form in ("transformers", "openjanus"):
        main(["convert", str(folder), str(tmp_path / form), "--format", form])
        assert checkpoint.detect_format(tmp_path / form) == form
        folder = tmp_path / form
    assert "expected one of openjanus" in refusal(capsys, "convert", folder, tmp_path / "new", "--format", "gguf")
    assert "expected one of stored" in refusal(capsys, "convert", folder, tmp_path / "new", "--dtype", "int8")
    assert not (tmp_path / "new").exists()


def test_several_pictures_and_one_question(model, picture, capsys) -> None:
    main(["ask", str(picture), str(picture), "what differs?", "--model", str(model), "--max-new-tokens", "4"])
    assert capsys.readouterr().out.endswith("\n")
    assert "a question in quotes" in refusal(capsys, "ask", picture, "--model", model)


def test_a_size_that_the_model_cannot_draw(model, tmp_path, capsys) -> None:
    assert "this model draws 16" in refusal(
        capsys, "generate", "a cat", "--size", "384", "--model", model, "--out", tmp_path
    )


def test_chat_reads_lines_until_the_end(model, picture, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("what is it?\n/quit\n"))
    main(["chat", str(picture), "--model", str(model), "--max-new-tokens", "3"])
    assert "janus> " in capsys.readouterr().out


def test_a_model_that_is_nowhere(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    for name, words in (
        (tmp_path / "none", "no such folder"),
        ("owner/name", "the hub cannot be reached (no network)"),
        ("no such/name", "not a hub id"),
    ):
        assert words in refusal(capsys, "generate", "a cat", "--model", name, "--out", tmp_path)


def unreachable(repo: str, **_: object) -> str:
    validate_repo_id(repo)
    raise ConnectionError("no network")


def test_a_hub_id_is_downloaded_at_its_revision(model, tmp_path, monkeypatch, capsys) -> None:
    asked = []

    def download(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo, revision))
        assert "*.json" in allow_patterns
        return str(model)

    monkeypatch.setattr(hub, "snapshot_download", download)
    main(["generate", "a cat", "--model", "owner/name", "--revision", "v1", "--out", str(tmp_path)])
    assert asked == [("owner/name", "v1")]
    assert "a revision belongs to a hub id" in refusal(
        capsys, "generate", "a cat", "--model", model, "--revision", "v1", "--out", tmp_path
    )


def test_convert_stores_another_dtype(model, tmp_path) -> None:
    main(["convert", str(model), str(tmp_path / "half"), "--dtype", "float16"])
    assert load_file(tmp_path / "half" / "model.safetensors")["language_model.norm.weight"].dtype == torch.float16


def test_prompts_of_the_same_words_get_files_of_their_own(model, tmp_path, capsys) -> None:
    prompts = ["a red car", "A red car!", "红苹果", "蓝色", "a red car 2"]
    main(["generate", *prompts, "--model", str(model), "--out", str(tmp_path / "new")])
    files = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert len(set(files)) == len(prompts) + 1
    told = []
    for file in files[:-1]:
        with Image.open(file) as image:
            told.append(image.text["prompt"])
    assert told == prompts


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--seed", "1000000000000000000", "seed is 1000000000000000000"),
        ("--guidance", "inf", "guidance is inf"),
        ("--threads", "-1", "threads is -1"),
        ("--device", "cpu:first", "device 'cpu:first'"),
        ("--weights", "float8", "weights 'float8'"),
        ("--top-p", "2", "top_p is 2.0"),
    ],
)
def test_options_that_mean_nothing_are_named(model, tmp_path, capsys, option, value, message) -> None:
    assert message in refusal(capsys, "generate", "a cat", "--model", model, "--out", tmp_path, option, value)


def test_edit_draws_from_pictures_and_words(picture, tmp_path, capsys) -> None:
    """By the command as by the library; guidance by three rows is in the file's settings."""
    folder = tmp_path / "model"
    checkpoint.save(replace(tiny.checkpoint(), tasks=("talk", "draw", "edit")), folder)
    words = [str(picture), str(picture), "make it blue", "--guidance", "4", "--image-guidance", "1.5"]
    main(["edit", *words, "--model", str(folder), "--out", str(tmp_path / "new")])
    (path,) = (tmp_path / "new").iterdir()
    said = Message("user", [picture, picture, "make it blue"])
    (wanted,) = openjanus.load(folder).generate(said, guidance=4.0, image_guidance=1.5)
    with Image.open(path) as image:
        assert image.tobytes() == wanted.tobytes()
        assert (image.text["prompt"], image.text["image_guidance"]) == ("make it blue", "1.5")


def test_a_model_that_cannot_edit_refuses_pictures_in_one_line(model, picture, tmp_path, capsys) -> None:
    where = ("--model", model, "--out", tmp_path / "new")
    for more in ((), ("--image-guidance", "2")):
        line = refusal(capsys, "edit", picture, "make it blue", *more, *where)
        assert line.endswith("trained to talk and draw, not to edit: ask for a drawing with words only")
    assert "expected a picture file and then what to change" in refusal(capsys, "edit", "make it blue", *where)
    assert "empty instruction" in refusal(capsys, "edit", picture, " ", *where)
    assert "no such file" in refusal(capsys, "edit", tmp_path / "no.png", "make it blue", *where)
    assert not list((tmp_path / "new").glob("*"))


def test_a_training_without_its_eyes_says_what_to_do(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "train it first" in refusal(capsys, "train", "nano.janus")
    for name in ("nano.tokenizer", "nano.encoder"):
        eye = tmp_path / "runs" / name
        (eye / "checkpoints" / "00000001").mkdir(parents=True)
        (eye / "checkpoints" / "00000001" / "model.safetensors").write_bytes(b"half a file")
        own.save(find_recipe(name)(), eye / "run.json")
    assert "damaged or not safetensors" in refusal(capsys, "train", "nano.janus")


def test_a_bad_source_leaves_no_target(tmp_path, capsys) -> None:
    refusal(capsys, "convert", tmp_path, tmp_path / "target")
    assert not (tmp_path / "target").exists()
