"""Files and folders as rows.

A folder is read by what is in it: metadata files first, then shards (.tar, .parquet), then records (.jsonl, .json,
.csv, .tsv), then pictures with a text file of the same name beside each.
"""

import csv
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from openjanus.readers.archives import read_hub, read_parquet, read_tar
from openjanus.readers.pictures import PICTURE_ENDINGS, FilePicture, find_picture
from openjanus.readers.records import Fault, Row, read_record

Rows = Iterator[Row | Fault]
METADATA = ("metadata.jsonl", "metadata.csv")
HUB = "hub:"
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a long answer is no error


def read_rows(path: str) -> Rows:
    """All examples of a folder, a file, or `hub:NAME`, in a fixed order.

    Raises ValueError if there is no such file, or nothing in it that is known.
    """
    if path.startswith(HUB):
        return read_hub(path.removeprefix(HUB))
    place = Path(path).expanduser()
    if place.is_dir():
        return read_folder(place)
    if not place.is_file():
        raise ValueError(f"{path}: no such file or folder (a data set of the hub is written {HUB}NAME)")
    read = READERS.get(place.suffix.lower())
    if read is None:
        raise ValueError(f"{path}: unknown format; expected a folder, {', '.join(READERS)}")
    return read(place)


def read_folder(folder: Path) -> Rows:
    """Rows of a folder and of those in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path, folder))
    metadata = [path for path in files if path.name in METADATA]
    if metadata:
        return _with_metadata(metadata, [path for path in files if path.suffix.lower() in PICTURE_ENDINGS])
    for endings in ((".tar", ".parquet"), (".jsonl", ".json", ".csv", ".tsv")):
        found = [path for path in files if path.suffix.lower() in endings]
        pictures = [path for path in files if path.suffix.lower() in PICTURE_ENDINGS]
        # cat.json beside cat.png says something of the picture; it is no list of records
        found = [path for path in found if not any(path.with_suffix(ending) in pictures for ending in PICTURE_ENDINGS)]
        if found:
            return (row for path in found for row in READERS[path.suffix.lower()](path))
    if any(path.suffix.lower() in PICTURE_ENDINGS for path in files):
        return _with_sidecars([path for path in files if path.suffix.lower() in PICTURE_ENDINGS])
    kinds = sorted({path.suffix or path.name for path in files})
    raise ValueError(
        f"{folder}: nothing to read in it ({', '.join(kinds[:8]) or 'it is empty'}); expected metadata.jsonl, pictures "
        f"with .txt files beside them, or {', '.join(READERS)}"
    )


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)


def _with_metadata(metadata: list[Path], pictures: list[Path]) -> Rows:
    """Rows of metadata files, and a fault for each picture that none of them names."""
    named = set()
    for path in metadata:
        for row in READERS[path.suffix](path):
            if isinstance(row, Row):
                named |= {picture.path for picture in row.pictures if isinstance(picture, FilePicture)}
            yield row
    for picture in pictures:
        if picture not in named:
            yield Fault(str(picture), f"{metadata[0].name} does not name this picture")


def _with_sidecars(pictures: list[Path]) -> Rows:
    for picture in pictures:
        texts = [path for path in (picture.with_suffix(".txt"), picture.with_suffix(".caption")) if path.is_file()]
        if not texts:
            lack = f"no caption: expected {picture.with_suffix('.txt').name} beside it"
            yield Fault(str(picture), lack, FilePicture(picture))
            continue
        try:
            words = texts[0].read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            yield Fault(str(texts[0]), f"cannot be read ({error})")
            continue
        yield read_record({"image": picture.name, "text": words}, str(picture), _finder(picture, str(picture)))


def _finder(file: Path, where: str) -> Callable[[Any], Any]:
    return partial(find_picture, folder=file.parent, where=where)


def read_jsonl(path: Path) -> Rows:
    """One JSON record a line; blank lines are left out."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}:{number}"
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                yield Fault(where, f"not JSON ({error})")
                continue
            yield read_record(record, where, _finder(path, where))


def read_json(path: Path) -> Rows:
    """A list of records; the place of one is its number in the list."""
    try:
        records = json.loads(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(records, list):
        raise ValueError(f"{path}: holds {type(records).__name__}, expected a list of records")
    for number, record in enumerate(records, start=1):
        where = f"{path}:[{number}]"
        yield read_record(record, where, _finder(path, where))


def read_csv(path: Path, delimiter: str = ",") -> Rows:
    """A table whose first line names the columns."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file, delimiter=delimiter)
        try:
            for record in table:
                where = f"{path}:{table.line_num}"
                if None in record:
                    yield Fault(where, f"has more cells than the {len(table.fieldnames or ())} columns")
                    continue
                yield read_record(record, where, _finder(path, where))
        except (UnicodeDecodeError, csv.Error) as error:
            yield Fault(f"{path}:{table.line_num + 1}", f"cannot be read ({error})")


READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": partial(read_csv, delimiter="\t"),
    ".tar": read_tar,
    ".parquet": read_parquet,
}
