"""Users' mistakes end in one line, whatever they are: no traceback ever reaches a user."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import openjanus
from openjanus import cli
from openjanus.cli import extra_of, main
from openjanus.weights import checkpoint
from tests import tiny

OPENJANUS = [sys.executable, "-m", "openjanus"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "model"
    checkpoint.save(tiny.checkpoint(), folder)
    return folder


def fails_with(capsys, code: int, *words: str) -> str:
    """Runs a command that must exit with `code`; returns its one line."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == code
    lines = capsys.readouterr().err.splitlines()
    assert not any("Traceback" in line for line in lines)
    return next(line for line in lines if line.startswith("error: "))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("emoji.drawing", "unknown source 'emoji.drawing'; did you mean 'emoji.drawings'?"),
        ("nothing", "unknown source 'nothing'; known: emoji.drawings, emoji.questions, emoji.wide.drawings, "),
        ("emoji.pictures", "source 'emoji.pictures' gives pictures, but this needs conversations"),
    ],
)
def test_a_source_that_does_not_suit_is_refused_before_anything_is_built(source, message, tmp_path, capsys) -> None:
    mixture = f'stages.language.mixture={{"{source}": 4}}'
    assert message in fails_with(capsys, 2, "train", "nano.janus", mixture, "--out", tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_source_without_drawings_cannot_be_tokenized(tmp_path, capsys, monkeypatch) -> None:
    from openjanus.training import janus

    monkeypatch.setattr(janus, "starting_tokenizer", lambda task: tiny.janus().generation.tokenizer)
    words = ("tokenize", "nano.janus", f"task.image_ids={tmp_path}/ids.safetensors", "--source")
    assert "unknown source 'emoji.x'" in fails_with(capsys, 2, *words, "emoji.x")
    assert "emoji.texts has 0 drawings" in fails_with(capsys, 2, *words, "emoji.texts")


def test_a_missing_extra_is_named_with_its_install_command(capsys, monkeypatch) -> None:
    def without_fastapi() -> None:
        raise ModuleNotFoundError("No module named 'fastapi'", name="fastapi")

    monkeypatch.setitem(cli.COMMANDS, "recipes", without_fastapi)
    line = fails_with(capsys, 2, "recipes")
    assert line == "error: this needs fastapi: pip install 'openjanus[serve]'"


def test_every_optional_module_has_its_extra() -> None:
    extras = {
        "fastapi": "serve", "uvicorn": "serve", "prometheus_client": "serve", "matplotlib": "eval", "ray": "ray",
        "vllm": "vllm", "efficientnet_lite_pytorch": "train", "tensorboard": "train", "pytest": "dev",
    }  # fmt: skip
    assert {module: extra_of(module) for module in extras} == extras
    assert extra_of("torch") is None


@pytest.mark.parametrize("error", [KeyError("x"), StopIteration(), AttributeError("a.b"), RuntimeError("shapes")])
def test_a_fault_of_our_own_is_one_line_that_says_so(error, capsys, monkeypatch) -> None:
    def faulty() -> None:
        raise error

    monkeypatch.delenv("OPENJANUS_DEBUG", raising=False)
    monkeypatch.setitem(cli.COMMANDS, "recipes", faulty)
    line = fails_with(capsys, 1, "recipes")
    assert type(error).__name__ in line and "OPENJANUS_DEBUG=1 shows a traceback" in line


def test_text_in_another_encoding_is_refused(model, tmp_path, capsys) -> None:
    prompt = os.fsdecode("ein grüner Hund".encode("latin-1"))
    assert "half a character" in fails_with(capsys, 2, "generate", prompt, "--model", model, "--out", tmp_path)
    assert "half a character" in fails_with(capsys, 2, "generate", "a \ud83d", "--model", model, "--out", tmp_path)
    assert not list(tmp_path.glob("*"))


def run(words: list[str], **options) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*OPENJANUS, *words], capture_output=True, timeout=300, **options)


def test_a_path_in_another_encoding_or_with_brackets_is_printed_as_it_is(model, tmp_path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9 [bold]x[/bold] [/]"
    done = run(["generate", "a car", "--model", str(model), "--out", os.fsdecode(folder)])
    assert (done.returncode, done.stdout) == (0, folder + b"/a-car-seed0-0.png\n"), done.stderr
    assert os.path.isfile(done.stdout.rstrip(b"\n"))


def test_letters_that_the_output_cannot_show_are_spelled_out(model, tmp_path) -> None:
    words = ["generate", "红 é", "--model", str(model), "--out", str(tmp_path)]
    done = run(words, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert done.returncode == 0 and done.stdout.endswith(b"\\u7ea2-\xe9-seed0-0.png\n")


def test_chat_goes_on_after_broken_bytes_and_impossible_paths(model) -> None:
    lines = b"caf\xe9 \xff\n@~nobody-of-this-name/x.png what is it?\n/draw \xff\nwhat is it?\n"
    done = run(["chat", "--model", str(model), "--max-new-tokens", "2"], input=lines)
    errors = [line for line in done.stderr.decode().splitlines() if line.startswith("error: ")]
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert len(errors) == 3 and "nobody-of-this-name" in errors[1]
    assert done.stdout.count(b"janus> ") == 2


def test_closed_input_ends_a_chat_in_silence(model) -> None:
    words = [*OPENJANUS, "chat", "--model", str(model)]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *words], capture_output=True, timeout=300)
    assert done.returncode == 0 and b"rror" not in done.stderr


def test_a_reader_that_goes_away_ends_a_command_in_silence() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*OPENJANUS, "recipes"], stdout=writing, stderr=subprocess.PIPE, timeout=300)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_version_recipes_and_print(capsys) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"openjanus {openjanus.__version__}\n"
    main(["recipes"])
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("nano.tokenizer", "nano.encoder", "nano.janus", "nano.longer"))
    assert max(map(len, listed.splitlines())) < 80
    main(["train", "nano.janus", "seed=5", "--print"])
    assert '"seed": 5' in capsys.readouterr().out


def test_a_printed_recipe_says_the_overrides_and_trains_nothing(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["train", "nano.encoder", "stages.contrast.num_steps=7", "--print"])
    assert '"num_steps": 7' in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_short_names_of_dtypes_are_understood_by_every_command(model, tmp_path, capsys) -> None:
    main(["convert", str(model), str(tmp_path / "half"), "--dtype", "bf16"])
    assert "expected one of auto" in fails_with(capsys, 2, "train", "nano.encoder", "--dtype", "int8")
    assert "expected one of stored" in fails_with(capsys, 2, "convert", model, tmp_path / "new", "--dtype", "float8")


def test_the_package_lists_what_it_exports() -> None:
    assert {"Engine", "Message", "load", "__version__"} <= set(dir(openjanus))
