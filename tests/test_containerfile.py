"""What Containerfile says, read without a container runtime: user, process 1, packages, kernels, volume and context."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    """Instruction and arguments of each step, continued lines joined."""
    lines = [s for s in (ROOT / "Containerfile").read_text().splitlines() if not s.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [(name, words.strip()) for name, _, words in (s.partition(" ") for s in text.splitlines() if s)]


def of(steps, instruction: str) -> list[str]:
    return [words for name, words in steps if name == instruction]


def test_the_user_is_a_number_that_is_not_root(steps):
    (user,) = of(steps, "USER")
    number, _, group = user.partition(":")
    assert number.isdigit() and int(number) > 0 and group.isdigit()


def test_the_server_itself_is_process_1_and_gets_the_stop_signal(steps):
    (entry,) = of(steps, "ENTRYPOINT")
    assert json.loads(entry)[:2] == ["openjanus", "serve"]
    assert of(steps, "STOPSIGNAL") == ["SIGTERM"]


def test_packages_come_by_the_constraints_with_the_cpu_build_of_torch(steps):
    (install,) = [s for s in of(steps, "RUN") if "pip install" in s]
    assert "-c constraints.txt" in install and "--extra-index-url https://download.pytorch.org/whl/cpu" in install
    assert not re.search(r"(?<!extra)-index-url", install), "that index alone has not the pinned versions of the others"
    assert "torch.version.cuda is None" in install


def test_the_kernels_are_built_by_the_user_who_runs_where_no_volume_hides_them(steps):
    names = [name for name, _ in steps]
    build = next(i for i, (name, words) in enumerate(steps) if name == "RUN" and "kernels.available()" in words)
    assert names.index("USER") < build
    places = dict(re.findall(r"(\w+)=(\S+)", " ".join(of(steps, "ENV"))))
    (volume,) = of(steps, "VOLUME")
    assert volume == places["HF_HOME"] and not places["XDG_CACHE_HOME"].startswith(volume)
    assert "assert kernels.available()" in steps[build][1], "an image without them must not be built"


def test_the_health_check_is_a_command_without_a_shell(steps):
    (check,) = of(steps, "HEALTHCHECK")
    assert "/health" in json.loads(check.partition("CMD ")[2])[2]


def test_the_context_holds_what_is_copied_and_nothing_else(steps):
    ignore = [s for s in (ROOT / ".containerignore").read_text().splitlines() if not s.startswith("#")]
    copied = {source.removeprefix("./") for words in of(steps, "COPY") for source in words.split()[:-1]}
    assert ignore[0] == "*" and {s[1:] for s in ignore if s.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)
