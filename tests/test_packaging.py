"""The package as others get it: the sdist, the wheel built from it, and a clean environment that draws with it."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import openjanus

ROOT = Path(__file__).parents[1]
MIB = 2**20
# Beside these there are the code, the tests and the documents, which make the whole of a release.
FILES = {
    "CHANGELOG.md", "Containerfile", "LICENSE", "LOG.md", "Makefile", "NOTICE", "PKG-INFO", "README.md", ".gitignore",
    "constraints.txt", "pyproject.toml",
}  # fmt: skip
FOLDERS = {"docs", "examples", "openjanus", "requirements", "scripts", "tests"}


def run(*words: str | Path, cwd: Path) -> str:
    """Runs a command outside the repository. A variable that names the repository must not lead it there."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shipped() -> set[str]:
    """All files of the package, by their path from the repository's root."""
    paths = (p for p in (ROOT / "openjanus").rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(ROOT).as_posix() for p in paths}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """Built from the sdist, so that nothing of the repository can help."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist", cwd=source)
    (path,) = (folder / "dist").iterdir()
    return path


def test_the_sdist_holds_the_whole_release_and_nothing_else(sdist) -> None:
    assert sdist.name == f"openjanus-{openjanus.__version__}.tar.gz"
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert all(member.isfile() for member in members)
    names = {member.name.partition("/")[2]: member for member in members}
    assert {name for name in names if "/" not in name} == FILES
    assert {name.partition("/")[0] for name in names if "/" in name} <= FOLDERS
    assert {name for name in names if name.startswith("openjanus/")} == shipped()
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".draft"))]
    assert {"tests/conftest.py", "tests/tiny.py", "docs/serve.md", "requirements/vllm-venv"} <= names.keys()
    assert sdist.stat().st_size < 20 * MIB


def test_the_wheel_holds_the_package_with_its_data(wheel) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        meta = f"openjanus-{openjanus.__version__}.dist-info"
        described = archive.read(f"{meta}/METADATA").decode()
    assert {name for name in names if not name.startswith(meta)} == shipped()
    assert {f"{meta}/licenses/LICENSE", f"{meta}/licenses/NOTICE"} <= names
    assert "Description-Content-Type: text/markdown" in described and "Requires-Python: >=3.11" in described
    assert wheel.stat().st_size < 18 * MIB


def test_a_clean_environment_draws_with_the_wheel(wheel, tmp_path) -> None:
    """An environment of its own, but for the dependencies, which are those of the tests."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel, cwd=tmp_path)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # Folders named in a .pth file are searched last, and the .pth files in them are not read: no editable install.
    (site / "dependencies.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")) + "\n")
    where = run(python, "-c", "import openjanus; print(openjanus.__file__)", cwd=tmp_path)
    assert Path(where.strip()) == site / "openjanus" / "__init__.py"
    command = python.with_name("openjanus")
    assert run(command, "--version", cwd=tmp_path) == f"openjanus {openjanus.__version__}\n"
    (drawing,) = run(command, "generate", "two red apples", "--seed", "1", "--device", "cpu", cwd=tmp_path).split()
    expected = openjanus.load("nano", "cpu").generate("two red apples", seed=1)[0]
    with Image.open(tmp_path / drawing) as image:
        assert image.tobytes() == expected.tobytes()


def test_the_changelog_speaks_of_this_version() -> None:
    assert f"\n## [{openjanus.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
