"""The command line that starts vLLM, and what stands beside it in the environment. No vLLM is needed."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from openjanus.cli import main
from openjanus.fleet import command
from openjanus.fleet.image_decoder import ImageDecoder
from openjanus.fleet.options import FleetOptions
from openjanus.fleet.settings import VARIABLE, FleetSettings
from openjanus.inference.engine import Engine
from openjanus.serve.limits import Limits
from openjanus.serve.settings import ServerSettings
from openjanus.source import ModelSource
from openjanus.weights.checkpoint import save
from tests import tiny


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.importlib.metadata, "version", lambda name: "0.32.7")

    def become(*_: object) -> None:
        raise AssertionError("the test's own process would have become the command")

    monkeypatch.setattr(os, "execvpe", become)


def flags(line: list[str]) -> dict[str, str]:
    return {line[i]: line[i + 1] for i in range(len(line) - 1) if line[i].startswith("--")}


def test_the_command_says_all_that_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text("sesame-open\n")
    settings = ServerSettings(
        "0.0.0.0", 9000, "tiny", ("gpt-image-1",), positions=256, api_keys=tmp_path / "keys",
        limits=Limits(max_pictures=3, max_new_tokens=77),
    )  # fmt: skip
    options = FleetOptions(True, 3.0, "cuda:1", ("tensor-parallel-size=2", "enforce-eager"))
    made = command.server_command(ModelSource(weights="bf16"), settings, options)
    found = flags(made.arguments)
    assert found["--dtype"] == "bfloat16" and found["--port"] == "9000" and found["--max-model-len"] == "256"
    assert json.loads(found["--hf-overrides"]) == {"paired": False, "guidance": 3.0}
    assert json.loads(found["--limit-mm-per-prompt"]) == {"image": 3}
    assert json.loads(found["--override-generation-config"])["max_new_tokens"] == 77
    assert found["--tensor-parallel-size"] == "2" and made.arguments[-1] == "--enforce-eager"
    at = made.arguments.index("--served-model-name")
    assert made.arguments[at + 1 : at + 3] == ["tiny", "gpt-image-1"]
    monkeypatch.setenv(VARIABLE, made.environment[VARIABLE])
    expected = FleetSettings(replace(settings, api_keys=str(tmp_path / "keys")), "cuda:1")
    assert FleetSettings.from_environment() == expected
    assert "openjanus" in made.environment["VLLM_PLUGINS"].split(",")
    assert "sesame" not in str(made)


def test_plugins_that_were_named_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "theirs")
    made = command.server_command(ModelSource(), ServerSettings(), FleetOptions())
    assert made.environment["VLLM_PLUGINS"] == "theirs,openjanus"


def test_settings_survive_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = FleetSettings(ServerSettings(allow_host=("a", "b"), limits=Limits(max_n=3, body_seconds=1.5)), "cuda")
    held: dict[str, str] = {}
    settings.into(held)
    monkeypatch.setenv(VARIABLE, held[VARIABLE])
    assert FleetSettings.from_environment() == settings
    monkeypatch.delenv(VARIABLE)
    assert FleetSettings.from_environment() == FleetSettings()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "int8"], "weights 'int8': with vLLM expected"),
        (["--device", "cuda"], "not for --engine vllm"),
        (["--ignore-config-keys", "x"], "give them to openjanus convert"),
        (["--api-keys", "nowhere"], "cannot read API keys"),
        (["--model", "nowhere"], "no such folder"),
        (["--grace-seconds", "-1"], "grace_seconds is -1"),
        (["--fleet.guidance", "0.5"], "guidance is 0.5"),
        (["--fleet.vllm", "=2"], "expected an argument of vLLM"),
    ],
)
def test_what_is_wrong_ends_in_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--engine", "vllm", *arguments])
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.importlib.metadata, "version", lambda name: "0.33.0")
    with pytest.raises(ValueError, match=r"vLLM 0.33.0 is installed; .* 0.32 only"):
        command.check_installed()

    def absent(name: str) -> str:
        raise command.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(command.importlib.metadata, "version", absent)
    with pytest.raises(ValueError, match=r"pip install 'openjanus\[vllm\]'"):
        command.check_installed()


def test_the_process_becomes_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list = []
    monkeypatch.setattr(os, "execvpe", lambda *given: ran.append(given))
    main(["serve", "--engine", "vllm", "--port", "0", "--alias", "a", "b"])
    ((file, line, environment),) = ran
    assert file == line[0] and environment["PATH"] == os.environ["PATH"] and VARIABLE in environment


def test_the_image_decoder_equals_the_engine(tmp_path: Path) -> None:
    checkpoint = tiny.checkpoint(sampling={"guidance": 3.0, "temperature": 0.5})
    save(checkpoint, tmp_path / "model")
    decoder = ImageDecoder.load(str(tmp_path / "model"), None, "cpu", 2.0)
    engine = Engine(checkpoint)
    ids = engine.generate_ids("a cat", seed=1)
    assert decoder.canvas.decode(ids)[0].tobytes() == engine.decode_images(ids)[0].tobytes()
    assert decoder.canvas.sampling == {"guidance": 2.0, "temperature": 0.5}
    assert decoder.canvas.sizes == ["16x16"] and decoder.canvas.num_image_ids == 16
