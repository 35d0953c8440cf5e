"""A server of its own process, by the real command line."""

import base64
import io
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI
from PIL import Image

START_SECONDS = 300


@dataclass
class Served:
    url: str
    process: subprocess.Popen

    def client(self, key: str = "none") -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=240)


@contextmanager
def start(arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[Served]:
    """`openjanus serve ARGUMENTS` on a free port, once it is healthy."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "openjanus", "serve", "--port", str(port), *arguments]
    process = subprocess.Popen(command, env={**os.environ, **environment})
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + START_SECONDS
    try:
        while not _healthy(url):
            assert process.poll() is None, f"the server ended with {process.returncode}"
            assert time.monotonic() < end, "the server did not start in time"
            time.sleep(0.5)
        yield Served(url, process)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
        process.kill()


def _healthy(url: str) -> bool:
    try:
        return urllib.request.urlopen(f"{url}/health", timeout=5).status == 200
    except OSError:
        return False


def ask(client: openai.OpenAI, messages: Any, **settings: Any) -> Any:
    return client.chat.completions.create(model="nano", messages=messages, **{"max_tokens": 12, **settings})


def pixels_of(b64: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(b64))))


def refused(call: Any) -> tuple[int, str]:
    with pytest.raises(openai.APIStatusError) as error:
        call()
    return error.value.status_code, str(error.value.body)
