"""Users' files of every format, made for a test: ten good records each."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from openjanus.readers.files import read_rows
from openjanus.readers.records import Fault, Row

NUM = 10


def picture(number: int, size: tuple[int, int] = (20, 12)) -> Image.Image:
    """A picture that no other number has."""
    return Image.new("RGB", size, (number * 7 % 256, number * 31 % 256, 90))


def png(number: int) -> bytes:
    file = io.BytesIO()
    picture(number).save(file, "png")
    return file.getvalue()


def write_pictures(folder: Path, numbers: Iterable[int] = range(NUM)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number}.png").write_bytes(png(number))


def write_jsonl(path: Path, records: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path


def read(path: Path | str) -> tuple[list[Row], list[Fault]]:
    rows: list[Row] = []
    faults: list[Fault] = []
    for row in read_rows(str(path)):
        if isinstance(row, Row):
            rows.append(row)
        else:
            faults.append(row)
    return rows, faults


def contents(row: Row) -> list[tuple[str, list[Any]]]:
    """A row's turns with its pictures as bytes."""
    return [(role, [part if isinstance(part, str) else part.read() for part in parts]) for role, parts in row.turns]
