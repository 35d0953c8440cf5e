"""The C++ kernels of csrc: built by the C++ compiler at first use, then loaded within milliseconds.

Where they cannot be built, one warning says why, `available` is False, and the plain torch formulas of quantisation.py
and of model/language_model.py run instead. These are much slower, and they give slightly other numbers: sums have
another order, which depends on the rows that run together, and in int8 and int4 activations are not rounded to 8 bits.
The same seed may then draw another picture.
"""

import functools
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("csrc")
FLAGS = ("-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-Wno-psabi")
logger = logging.getLogger(__name__)
_loading = threading.Lock()


def available() -> bool:
    """Loads the kernels, and builds them first (half a minute) if this machine has not done so yet. Any thread may call
    it; the others wait."""
    with _loading:
        return _load()


@functools.cache
def _load() -> bool:
    try:
        library = _library()
        if not library.is_file():
            _build(library)
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError) as error:
        logger.warning("no fast CPU kernels, slow torch formulas instead: %s", error)
        return False
    return True


def compiler() -> list[str]:
    """The command of the C++ compiler: $CXX, or the first of c++, g++ and clang++ that is there; empty without any."""
    command = shlex.split(os.environ.get("CXX", ""))
    found = (path for name in ("c++", "g++", "clang++") if (path := shutil.which(name)))
    return command or list(found)[:1]


def compile_command(compiler: list[str], flags: tuple[str, ...] = FLAGS) -> list[str]:
    """What compiles a unit of csrc against this torch."""
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    return [*compiler, *flags, abi, "-isystem", str(_torch_folder() / "include"), "-I", str(SOURCE)]


def _torch_folder() -> Path:
    return Path(torch.__file__).parent


def _library() -> Path:
    """Where the library is, or shall be: one for each version of the source, of torch, of the system and of the
    processor, as machines may share a home. Raises OSError where there is no place for it."""
    sources = [source.read_text() for source in sorted(SOURCE.iterdir())]
    key = [*sources, *FLAGS, torch.__version__, *platform.libc_ver(), platform.machine(), _processor_features()]
    name = hashlib.sha256("\n".join(key).encode()).hexdigest()[:16]
    reasons = []
    for cache in _caches():
        library = cache / name / "kernels.so"
        try:
            library.parent.mkdir(parents=True, exist_ok=True)
            if library.is_file() or os.access(library.parent, os.W_OK):
                return library
            reasons.append(f"{library.parent} cannot be written")
        except OSError as error:
            reasons.append(str(error))
    raise OSError(f"no folder to build them in ({'; '.join(reasons)}): set XDG_CACHE_HOME to one")


def _caches() -> Iterator[Path]:
    """The user's cache; then a temporary folder that belongs to this user only, since what lies there is run."""
    if os.environ.get("XDG_CACHE_HOME"):
        yield Path(os.environ["XDG_CACHE_HOME"]) / "openjanus"
    elif (home := os.path.expanduser("~")) != "~":  # unknown: a container may run under a number without a name
        yield Path(home) / ".cache" / "openjanus"
    own = Path(tempfile.gettempdir()) / f"openjanus-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    found = own.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{own} can be written by others")
    yield own


def _processor_features() -> str:
    try:
        features = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        features = None
    return features[1] if features else platform.processor()


def _build(library: Path) -> None:
    """Builds in a folder of its own; the finished library appears under its name at once."""
    command = compiler()
    if not command:
        raise RuntimeError("no C++ compiler here; install g++ or clang++")
    logger.warning("building the CPU kernels, once: about half a minute")
    with tempfile.TemporaryDirectory(prefix="build-", dir=library.parent) as folder:
        built = Path(folder) / library.name
        done = subprocess.run(
            [
                *compile_command(command),
                *("-shared", "-fPIC", str(SOURCE / "kernels.cpp"), "-o", str(built)),
                *(f"-L{_torch_folder() / 'lib'}", "-lc10", "-ltorch_cpu"),
            ],
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {_reason(done)}")
        os.replace(built, library)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The line of a compiler's output that says what is wrong."""
    told = re.search(r"^.*(?:error:|cannot find|undefined reference).*$", done.stderr, re.MULTILINE)
    lines = [told[0]] if told else done.stderr.strip().splitlines()[-1:]
    return lines[0].strip() if lines else f"ended with code {done.returncode}"
