"""Every command block of README and docs runs, as it is printed and in order, in a folder that looks like a clone.

Three things differ from what a reader does: OPENJANUS_SHORT=1 cuts long commands short; the hub is an offline cache of
tiny checkpoints; and port 8000 is a free port. A block that cannot run has a comment above it, `<!-- not run: why -->`,
and stands in NOT_RUN.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

from openjanus.testing import tiny_checkpoint
from tests.towers import make_whole

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- not run: ([^>]*) -->\n+)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LANGUAGES = ("bash", "console", "python")
SERVING = re.compile(r"^openjanus serve\b.*$", re.MULTILINE)

# The first line of each block that does not run, and why.
NOT_RUN = {
    "make demo": "this test is part of `make test`, and CI runs both",
    "pip install": "installs into the environment of the tests",
    "podman build": "needs a container runtime",
    "openjanus serve --engine vllm": "needs vLLM, which has tests of its own",
    "# The same clients": "needs vLLM, which has tests of its own",
    "openjanus serve --engine ray": "needs Ray, which has tests of its own",
    "torchrun --nproc-per-node 8 -m openjanus train finetune.full": "starts several processes; tests/parallel does",
    'echo \'{"descriptions"': "needs weeks and the paper's data; tests run it with small numbers",
    "openjanus push": "needs the hub",
    "openjanus data check my-data  ": "docs/training.md runs them with data",
    "openjanus train janus-1.3b.semantic": "needs GPUs and data",
    "openjanus ablate mini": "takes hours; tests/recipes/test_ablations.py runs it with tiny models",
    "openjanus ablate languages": "takes hours; tests/recipes/test_languages.py runs it with tiny models",
    "python examples/": "tests/test_examples.py runs the examples",
}


@dataclass(frozen=True)
class Block:
    """One fenced block. reason: why it does not run; empty if it does."""

    language: str
    text: str
    reason: str


def blocks(path: Path) -> list[Block]:
    found = BLOCK.findall(path.read_text(encoding="utf-8"))
    return [Block(language, text, reason) for reason, language, text in found if language in LANGUAGES]


def hub_folder(home: Path, name: str) -> Path:
    """Where the hub's client keeps the files of a repository."""
    folder, revision = home / "hub" / f"models--{name.replace('/', '--')}", "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    return folder / "snapshots" / revision


@pytest.fixture(scope="session")
def hub(tmp_path_factory) -> Path:
    """A cache as the hub's client writes it, with tiny checkpoints under the names that the docs use."""
    home = tmp_path_factory.mktemp("hub")
    for name, form, template in (
        ("deepseek-ai/Janus-1.3B", "official", "deepseek_old"),
        ("deepseek-ai/Janus-Pro-1B", "official", "deepseek"),
        ("deepseek-community/Janus-Pro-1B", "transformers", "deepseek"),
    ):
        tiny_checkpoint(hub_folder(home, name), form, template)
    make_whole("clip", hub_folder(home, "openai/clip-vit-large-patch14-336"))
    return home


@pytest.fixture
def clone(tmp_path) -> Path:
    """A folder with what a clone holds, the virtual environment included."""
    for name in ("openjanus", "scripts", "docs", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


class Reader:
    """Somebody who types the blocks of one document, one after another."""

    def __init__(self, folder: Path, hub: Path):
        self.folder, self.port = folder, free_port()
        self.servers: list[subprocess.Popen[bytes]] = []
        variables = {name: value for name, value in os.environ.items() if not name.startswith("OPENJANUS_")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = variables | {
            "PATH": path, "PYTHONPATH": str(ROOT), "HF_HOME": str(hub), "HF_HUB_OFFLINE": "1", "OPENJANUS_SHORT": "1",
        }  # fmt: skip

    def type(self, block: Block) -> None:
        text = block.text.replace(":8000", f":{self.port}").replace("--port 9000", f"--port {free_port()}")
        if block.language == "python":
            self._run([sys.executable, "-c", text])
            return
        for command in SERVING.findall(text):
            self._serve(command)
        if rest := SERVING.sub("", text).strip():
            self._run(["bash", "-euo", "pipefail", "-c", rest])

    def _run(self, words: list[str]) -> None:
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment, timeout=600, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert done.returncode == 0, f"{words[-1]}\n{done.stdout.decode()[-3000:]}"

    def _serve(self, command: str) -> None:
        """Starts a server and waits until it answers."""
        command = command.partition(" #")[0]
        port = int(found[1]) if (found := re.search(r"--port (\d+)", command)) else self.port
        words = ["bash", "-c", f"exec {command.replace(f' --port {port}', '')} --port {port}"]
        server = subprocess.Popen(words, cwd=self.folder, env=self.environment, stderr=subprocess.PIPE)
        self.servers.append(server)
        for _ in range(600):
            assert server.poll() is None, f"{command}\n{server.stderr.read().decode()[-3000:]}"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5).close()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(f"{command}: not ready after two minutes")

    def leave(self) -> None:
        for server in self.servers:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=60)
        self.servers = []


@pytest.mark.parametrize("path", [path for path in DOCS if blocks(path)], ids=lambda path: path.name)
def test_the_blocks_of_a_document_run_in_order(path: Path, clone: Path, hub: Path) -> None:
    reader = Reader(clone, hub)
    try:
        for block in blocks(path):
            if not block.reason:
                reader.type(block)
    finally:
        reader.leave()


def test_blocks_that_do_not_run_are_the_listed_ones() -> None:
    used = set()
    for block in (block for path in DOCS for block in blocks(path) if block.reason):
        begins = next((start for start in NOT_RUN if block.text.startswith(start)), None)
        assert begins is not None, f"not listed in NOT_RUN: {block.text}"
        assert block.reason == NOT_RUN[begins]
        used.add(begins)
    assert used == set(NOT_RUN)


def test_the_docs_install_extras_that_exist() -> None:
    known = set(metadata.metadata("openjanus").get_all("Provides-Extra") or ())
    named = [
        extra
        for path in DOCS
        for group in re.findall(r"pip install[^\n]*\[([\w,]+)\]", path.read_text(encoding="utf-8"))
        for extra in group.split(",")
    ]
    assert named and set(named) <= known
