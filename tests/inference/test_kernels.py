"""The kernels are built wherever a C++ compiler is, once, and one right line says why where they are not."""

import logging
import os
import platform
import pwd
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from openjanus.inference import kernels

CHECK = Path(__file__).with_name("check_products.cpp")
QUICK, SLOW = ("skylake-avx512", "haswell", "x86-64"), ("x86-64-v4", "znver4", "sapphirerapids")
MUST_BE_KNOWN = ("haswell", "skylake-avx512", "x86-64-v4", "x86-64")
CANNOT_RUN = 77
# Stands for a compiler: counts its calls, and writes what it was told to.
FAKE = """
import sys, time
time.sleep(0.2)
with open({calls!r}, "a") as calls:
    calls.write("called\\n")
with open(sys.argv[sys.argv.index("-o") + 1], "w") as library:
    library.write("built")
"""
# A library that takes a moment to build: it needs torch's headers, and torch loads it.
SMALL = """
#include <c10/util/BFloat16.h>
extern "C" float one() { return c10::BFloat16(1.0f); }
"""
needs_compiler = pytest.mark.skipif(not kernels.compiler(), reason="no C++ compiler here")
on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="these processors are x86-64")


def other_compilers() -> list[str]:
    return [name for name in ("g++-11", "clang++", "clang++-14", "clang++-16") if shutil.which(name)]


def knows(compiler: list[str], processor: str) -> bool:
    command = [*compiler, f"-march={processor}", "-fsyntax-only", "-x", "c++", "/dev/null"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def build_and_run(compiler: list[str], processor: str, folder: Path) -> None:
    flags = [*kernels.FLAGS, "-O1", f"-march={processor}"]  # the last ones win
    command = [*kernels.compile_command(compiler, tuple(flags)), str(CHECK), "-o", str(folder / "check")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([folder / "check"], capture_output=True, text=True, check=False)
    assert done.returncode in (0, CANNOT_RUN), done.stdout


@needs_compiler
@on_x86
@pytest.mark.parametrize("processor", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_the_kernels_compile_for_every_processor_and_are_right_where_it_can_run(processor, tmp_path) -> None:
    if not knows(kernels.compiler(), processor):
        assert processor not in MUST_BE_KNOWN
        pytest.skip(f"the compiler does not know {processor}")
    build_and_run(kernels.compiler(), processor, tmp_path)


@pytest.mark.slow
@on_x86
@pytest.mark.parametrize("name", other_compilers())
def test_other_compilers_that_are_here_compile_them_too(name, tmp_path) -> None:
    for processor in QUICK + SLOW:
        if knows([name], processor):
            build_and_run([name], processor, tmp_path)
    command = [*kernels.compile_command([name]), "-fPIC", "-c", str(kernels.SOURCE / "kernels.cpp")]
    done = subprocess.run([*command, "-o", str(tmp_path / "unit.o")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_where_a_compiler_is_the_kernels_are_there(compiled_kernels) -> None:
    assert hasattr(torch.ops.openjanus, "decode_int8")


@pytest.fixture
def fresh(tmp_path, monkeypatch) -> Iterator[Path]:
    """As in a new process, with an empty cache: the folder of the cache."""
    cache = tmp_path / "cache of a user"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.delenv("CXX", raising=False)
    kernels._load.cache_clear()
    yield cache
    kernels._load.cache_clear()


def only_warning(caplog: pytest.LogCaptureFixture) -> str:
    (message,) = [text for text in caplog.messages if not text.startswith("building")]
    assert "\n" not in message
    return message


def test_several_threads_at_the_first_use_build_once_and_all_get_them(fresh, tmp_path, monkeypatch) -> None:
    calls, script, got = tmp_path / "calls", tmp_path / "compiler.py", []
    script.write_text(FAKE.format(calls=str(calls)))
    monkeypatch.setenv("CXX", shlex.join([sys.executable, str(script)]))
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    threads = [threading.Thread(target=lambda: got.append(kernels.available())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [True] * 4
    assert calls.read_text().split() == ["called"]
    assert [path.name for path in fresh.rglob("*") if path.is_file()] == ["kernels.so"]


@needs_compiler
def test_torch_the_source_and_the_cache_may_lie_in_folders_with_spaces(fresh, tmp_path, monkeypatch) -> None:
    torch_folder, source = tmp_path / "my torch", tmp_path / "my source"
    torch_folder.symlink_to(Path(torch.__file__).parent)
    source.mkdir()
    (source / "kernels.cpp").write_text(SMALL)
    monkeypatch.setattr(torch, "__file__", str(torch_folder / "__init__.py"))
    monkeypatch.setattr(kernels, "SOURCE", source)
    assert kernels.available()


def test_a_user_without_home_and_name_builds_in_a_folder_of_its_own(fresh, tmp_path, monkeypatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = tmp_path / f"openjanus-{os.getuid()}"
    assert kernels._library().is_relative_to(own)
    assert stat.S_IMODE(own.stat().st_mode) == 0o700


def test_a_home_that_cannot_be_written_is_left_for_another_folder(fresh, tmp_path, monkeypatch) -> None:
    fresh.write_text("a file where the cache should be")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert kernels._library().is_relative_to(tmp_path / f"openjanus-{os.getuid()}")


def test_a_folder_that_others_can_write_is_not_used(fresh, tmp_path, monkeypatch, caplog) -> None:
    fresh.write_text("a file where the cache should be")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"openjanus-{os.getuid()}").mkdir()
    (tmp_path / f"openjanus-{os.getuid()}").chmod(0o777)
    with caplog.at_level(logging.WARNING):
        assert not kernels.available()
    assert "can be written by others" in only_warning(caplog)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("In file included from a.h:1:\nb.h:2:3: error: no x\n  4 | x\n1 error generated.\n", "b.h:2:3: error: no x"),
        ("g++: fatal error: Killed signal terminated program cc1plus\ncompilation terminated.\n", "Killed signal"),
        ("/usr/bin/ld: cannot find -lc10\ncollect2: error: ld returned 1 exit status\n", "cannot find -lc10"),
        ("", "ended with code 3"),
    ],
)
def test_the_warning_gives_the_line_of_the_compiler_that_says_what_is_wrong(
    fresh, tmp_path, monkeypatch, caplog, output, reason
) -> None:
    script = tmp_path / "compiler.py"
    script.write_text(f"import sys\nsys.stderr.write({output!r})\nsys.exit(3)")
    monkeypatch.setenv("CXX", shlex.join([sys.executable, str(script)]))
    with caplog.at_level(logging.WARNING):
        assert not kernels.available()
        assert not kernels.available()  # and says it once
    assert reason in only_warning(caplog) and "install" not in only_warning(caplog)


def test_without_a_compiler_the_warning_says_what_to_install(fresh, monkeypatch, caplog) -> None:
    monkeypatch.setenv("PATH", "")
    with caplog.at_level(logging.WARNING):
        assert not kernels.available()
    assert "no C++ compiler here; install g++ or clang++" in only_warning(caplog)


def test_a_compiler_that_is_not_there_is_named(fresh, monkeypatch, caplog) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with caplog.at_level(logging.WARNING):
        assert not kernels.available()
    assert "/nowhere/g++" in only_warning(caplog)
