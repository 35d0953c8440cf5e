"""The core stays small enough to read: it is what somebody must know to change Janus.

A file has at most 350 lines, and the core at most 8,000 that are not blank. Blank lines of the core are not counted,
because counting them would reward packing. C++ is not counted either: the plain formulas beside it say what it does.
"""

from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "openjanus"
CORE = ("sequence.py", "model", "processing", "weights", "data", "training", "inference")
MAX_LINES_OF_A_FILE, MAX_LINES_OF_THE_CORE = 350, 8000


def files(room: str) -> Iterator[Path]:
    path = PACKAGE / room
    assert path.exists(), f"{path} is gone: the core is {', '.join(CORE)}"
    return iter([path]) if path.is_file() else path.rglob("*.py")


def num_lines(room: str) -> int:
    """Lines that are not blank."""
    return sum(bool(line.strip()) for path in files(room) for line in path.read_text("utf-8").splitlines())


def test_the_core_is_small() -> None:
    sizes = {room: num_lines(room) for room in CORE}
    total = sum(sizes.values())
    report = ", ".join(f"{room} {lines:,}" for room, lines in sizes.items())
    print(f"lines of the core that are not blank: {report}; together {total:,}")
    assert total <= MAX_LINES_OF_THE_CORE, f"the core has {total:,} lines, at most {MAX_LINES_OF_THE_CORE:,}: {report}"


def test_no_file_of_the_core_is_long() -> None:
    lengths = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text("utf-8").splitlines())
        for room in CORE
        for path in files(room)
    }
    long = {name: length for name, length in lengths.items() if length > MAX_LINES_OF_A_FILE}
    assert not long, f"files of more than {MAX_LINES_OF_A_FILE} lines; look for a seam: {long}"
