"""Carries the folder of a training between machines in parts of at most 16 MB, for machines that keep nothing.

    python scripts/carry_run.py pack runs/nano parts       # after a command there
    python scripts/carry_run.py unpack parts runs/nano     # before the next one

The newest whole checkpoint of each run is packed, with the figures and previews. Both ways check every byte.
"""

import argparse
import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from openjanus.training import checkpoint

PART_BYTES = 16 * 10**6
LIST = "parts.json"


def files_of(folder: Path) -> Iterator[Path]:
    """All files of a training, or of several inside a folder, but older checkpoints."""
    runs = [path.parent for path in sorted(folder.rglob("run.json"))]
    if not runs:
        raise ValueError(f"{folder}: no training in it")
    newest = {run / "checkpoints": checkpoint.latest(run / "checkpoints") for run in runs}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"):
        kept = [newest[above] for above in path.parents if above in newest]
        if not kept or (kept[0] is not None and kept[0] in path.parents):
            yield path


def pack(folder: Path, out: Path) -> None:
    """Writes out/0000.part, out/0001.part, ... and a list of them with their digests. Raises ValueError if the folder
    has no training, or `out` holds something."""
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: not empty")
    files = list(files_of(folder))
    out.mkdir(parents=True, exist_ok=True)
    whole = out / "whole.tar"
    with tarfile.open(whole, "w") as tar:
        for path in files:
            tar.add(path, path.relative_to(folder).as_posix())
    digests = {}
    with whole.open("rb") as file:
        while data := file.read(PART_BYTES):
            name = f"{len(digests):04d}.part"
            (out / name).write_bytes(data)
            digests[name] = hashlib.sha256(data).hexdigest()
    whole.unlink()
    (out / LIST).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


def unpack(parts: Path, folder: Path) -> None:
    """Puts the parts together in a folder. Raises ValueError if one is missing or has changed, or if the folder holds
    something."""
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: not empty")
    digests = json.loads((parts / LIST).read_text(encoding="utf-8"))
    for name, digest in digests.items():
        if not (parts / name).is_file():
            raise ValueError(f"{parts / name}: missing")
        if hashlib.sha256((parts / name).read_bytes()).hexdigest() != digest:
            raise ValueError(f"{parts / name}: damaged")
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / ".whole.tar"
    with whole.open("wb") as file:
        for name in digests:
            file.write((parts / name).read_bytes())
    with tarfile.open(whole) as tar:
        tar.extractall(folder, filter="data")
    whole.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=("pack", "unpack"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    a = parser.parse_args()
    try:
        (pack if a.way == "pack" else unpack)(a.source, a.target)
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
