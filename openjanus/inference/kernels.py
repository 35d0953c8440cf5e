"""The C++ kernels of csrc: built by torch's extension loader at first use, then loaded within milliseconds.

Where no compiler is found, `available` is False and the plain torch formulas of quantisation.py and of
model/language_model.py are used, which compute the same and are much slower.
"""

import functools
import hashlib
import logging
import os
import platform
import re
import shutil
from pathlib import Path

import torch

SOURCES = sorted(f for f in Path(__file__).with_name("csrc").iterdir() if f.suffix in (".cpp", ".h"))
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-Wno-psabi")
logger = logging.getLogger(__name__)


@functools.cache
def available() -> bool:
    """Loads the kernels, and builds them first (half a minute) if this machine has not done so yet."""
    library = _build_folder() / "kernels.so"
    try:
        if not library.is_file():
            _build(library)
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[-1]
        logger.warning("no fast CPU kernels (%s): slow torch formulas instead; g++ or clang++ would build them", reason)
        return False
    return True


def _build_folder() -> Path:
    """One for each version of the source, of torch and of the processor: machines may share a home."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    sources = [source.read_text() for source in SOURCES]
    key = [*sources, *FLAGS, torch.__version__, platform.machine(), _processor_features()]
    return cache / "openjanus" / hashlib.sha256("\n".join(key).encode()).hexdigest()[:16]


def _processor_features() -> str:
    try:
        features = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        features = None
    return features[1] if features else platform.processor()


def _build(library: Path) -> None:
    """Builds in a folder of this process alone; the finished library appears under its name at once."""
    from torch.utils import cpp_extension  # imports setuptools: only to build

    folder = library.with_name(f"build-{os.getpid()}")
    folder.mkdir(parents=True, exist_ok=True)
    logger.warning("building the CPU kernels, once: about half a minute")
    units = [str(source) for source in SOURCES if source.suffix == ".cpp"]
    try:
        cpp_extension.load("openjanus_kernels", units, list(FLAGS), build_directory=str(folder), is_python_module=False)
        os.replace(folder / "openjanus_kernels.so", library)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
