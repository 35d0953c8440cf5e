"""Real clients with their default requests against one real server with the bundled model: `make test-clients`."""

import base64
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.clients
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CLIENTS = Path(os.environ.get("OPENJANUS_CLIENTS", ROOT / ".venv-clients")).absolute()
# Of each client: answers that it must bring, and drawings.
PYTHON = {
    "openai-python": (4, 2),
    "langchain-openai": (2, 0),
    "litellm": (2, 1),
    "llm": (2, 0),
    "pydantic-ai": (1, 0),
}
NODE = {"openai-node": (3, 1), "ai-sdk-openai": (2, 1), "ai-sdk-openai-compatible": (2, 1)}
SECONDS = 180


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def process(command: list[str], ready: str, log: Path, **settings) -> Iterator[None]:
    """Runs a server until the end of the block; it must answer at the address `ready`."""
    with log.open("w") as output:
        running = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **settings)
    try:
        end = time.monotonic() + SECONDS
        while True:
            try:
                urllib.request.urlopen(ready, timeout=5).close()
                break
            except OSError:
                assert running.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
                time.sleep(0.3)
        yield
    finally:
        running.terminate()
        try:
            running.wait(60)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "openjanus", "serve", "--model", "nano", "--port", str(port)]
    log = tmp_path_factory.mktemp("server") / "log"
    with process(command, f"http://127.0.0.1:{port}/ready", log, cwd=ROOT):
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="module")
def picture(server, tmp_path_factory) -> Path:
    """Two red apples, as the server draws them."""
    body = json.dumps({"prompt": "two red apples", "seed": 3}).encode()
    request = urllib.request.Request(f"{server}/images/generations", body, {"Content-Type": "application/json"})
    file = tmp_path_factory.mktemp("picture") / "apples.png"
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        file.write_bytes(base64.b64decode(json.load(answer)["data"][0]["b64_json"]))
    return file


def needs(kind: str) -> None:
    """Skips where the clients of a kind (python, proxy or node) could not be installed. Fails where nobody tried to."""
    reason = CLIENTS / f"{kind}.reason"
    if reason.exists():
        pytest.skip(reason.read_text().strip())
    assert (CLIENTS / kind).exists(), f"no clients in {CLIENTS}: run make test-clients"


def drive(command: list[str], expected: tuple[int, int], cwd: Path) -> None:
    # LiteLLM looks for a list of prices in the internet at its start otherwise.
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (len(found["answers"]), len(found["pictures"])) == expected
    assert {re.sub(r"\W", "", answer) for answer in found["answers"]} == {"2"}
    for drawn in found["pictures"]:
        assert Image.open(BytesIO(base64.b64decode(drawn))).size == (64, 64)


def python(client: str, url: str, picture: Path, kind: str = "python") -> list[str]:
    return [str(CLIENTS / kind / "bin/python"), str(HERE / "drive.py"), client, url, str(picture)]


@pytest.mark.parametrize("client", PYTHON)
def test_a_client_of_python_asks_and_draws(client, server, picture):
    needs("python")
    drive(python(client, server, picture), PYTHON[client], CLIENTS)


@pytest.mark.parametrize("client", NODE)
def test_a_client_of_node_asks_and_draws(client, server, picture):
    needs("node")
    drive(["node", str(HERE / "drive.mjs"), client, server, str(picture)], NODE[client], CLIENTS / "node")


def test_openai_asks_and_draws_through_the_proxy_of_litellm(server, picture, tmp_path, monkeypatch):
    needs("proxy")
    monkeypatch.setenv("LITELLM_MASTER_KEY", f"sk-{secrets.token_hex(32)}")  # the proxy does not start without one
    model = {"model": "openai/nano", "api_base": server, "api_key": "none"}
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"model_list": [{"model_name": "nano", "litellm_params": model}]}))
    port = free_port()
    program = str(CLIENTS / "proxy/bin/litellm")
    command = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DATABASE_URL")}
    environment["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    url = f"http://127.0.0.1:{port}"
    with process(command, f"{url}/health/liveliness", tmp_path / "log", cwd=tmp_path, env=environment):
        drive(python("litellm-proxy", f"{url}/v1", picture, kind="proxy"), (2, 1), CLIENTS)


def test_open_webui_asks_and_draws(server, picture, tmp_path):
    needs("webui")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {
        "DATA_DIR": str(tmp_path),
        "WEBUI_AUTH": "False",
        "WEBUI_SECRET_KEY": secrets.token_hex(32),
        "ENABLE_OLLAMA_API": "False",
        "OPENAI_API_BASE_URL": server,
        "OPENAI_API_KEY": "none",
        "ENABLE_IMAGE_GENERATION": "True",
        "IMAGE_GENERATION_ENGINE": "openai",
        "IMAGE_GENERATION_MODEL": "nano",
        "IMAGES_OPENAI_API_BASE_URL": server,
        "IMAGES_OPENAI_API_KEY": "none",
        # It loads a model for its search through documents at start otherwise.
        "RAG_EMBEDDING_ENGINE": "openai",
        "OFFLINE_MODE": "True",
        "HF_HUB_OFFLINE": "1",
    }
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DATABASE_URL")} | settings
    program = str(CLIENTS / "webui/bin/open-webui")
    command = [program, "serve", "--host", "127.0.0.1", "--port", str(port)]
    with process(command, f"{url}/health", tmp_path / "log", cwd=tmp_path, env=environment):
        drive(python("open-webui", url, picture, kind="webui"), (2, 1), CLIENTS)
