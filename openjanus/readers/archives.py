"""Tar files of WebDataset, parquet tables and data sets of the Hugging Face hub as rows; pictures stay in them."""

import json
import tarfile
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from openjanus.readers.pictures import PICTURE_ENDINGS, CellPicture, FilePicture, find_picture
from openjanus.readers.records import Fault, Row, read_record

BATCH_ROWS = 256


def read_tar(path: Path) -> Iterator[Row | Fault]:
    """Neighbouring members with one name before the first dot are an example: the form that img2dataset writes."""
    try:
        with tarfile.open(path, "r:") as tar:
            group: dict[str, tarfile.TarInfo] = {}
            name = ""
            for member in tar:
                if not member.isfile():
                    continue
                stem, _, ending = Path(member.name).name.partition(".")
                key = str(Path(member.name).parent / stem)
                if key != name and group:
                    yield _read_group(path, tar, name, group)
                    group = {}
                name = key
                group[f".{ending.lower()}"] = member
            if group:
                yield _read_group(path, tar, name, group)
    except tarfile.TarError as error:
        yield Fault(str(path), f"not a readable tar file ({error}); a compressed one must be unpacked first")


def _read_group(path: Path, tar: tarfile.TarFile, name: str, group: Mapping[str, tarfile.TarInfo]) -> Row | Fault:
    where = f"{path}:{name}"
    try:
        record = json.loads(_content(tar, group[".json"])) if ".json" in group else {}
        if not isinstance(record, dict):
            raise ValueError(f"its .json holds {type(record).__name__}, expected an object")
        if ".txt" in group:
            record["text"] = _content(tar, group[".txt"])
    except ValueError as error:
        return Fault(where, f"cannot be read ({error})")
    stored = {
        member.name: FilePicture(path, member.offset_data, member.size, member.name)
        for ending, member in group.items()
        if ending.endswith(PICTURE_ENDINGS)
    }

    def find(value: Any) -> Any:
        return stored[value] if value in stored else find_picture(value, path.parent, where)

    if stored and not any(key in record for key in ("messages", "conversations", "output_image")):
        caption = next((record[key] for key in ("text", "caption") if record.get(key)), None)
        asked = {key: record[key] for key in ("question", "answer", "prompt", "response") if record.get(key)}
        record = {"images": list(stored), **(asked if len(asked) == 2 else {"text": caption})}
    elif stored and "images" not in record and "image" not in record and "output_image" not in record:
        record["images"] = list(stored)
    return read_record(record, where, find)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    assert file is not None, "only files are in a group"
    return file.read().decode("utf-8-sig")


def read_parquet(path: Path) -> Iterator[Row | Fault]:
    """A row of the table is a record. Cells with pictures are read when the picture is needed."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        table = parquet.ParquetFile(path)
    except (OSError, arrow.ArrowException) as error:
        yield Fault(str(path), f"not a readable parquet file ({error})")
        return
    heavy = [field.name for field in table.schema_arrow if _holds_bytes(field.type)]
    light = [name for name in table.schema_arrow.names if name not in heavy]
    stamp = FilePicture(path).stamp
    row = 0
    for group in range(table.num_row_groups):
        num_rows = table.metadata.row_group(group).num_rows
        records = table.read_row_group(group, light).to_pylist() if light else [{}] * num_rows
        for number, light_record in enumerate(records):
            where = f"{path}:{row}"
            cells = {
                name: CellPicture(f"{where}, {name}", stamp, partial(_cell, path, group, number, name))
                for name in heavy
            }
            yield read_record({**light_record, **cells}, where, _finder(path, where))
            row += 1


def _holds_bytes(kind: Any) -> bool:
    """Whether a column holds pictures: bytes, or the struct of bytes and path of `datasets`."""
    name = str(kind)
    return name in ("binary", "large_binary") or (name.startswith("struct") and "bytes: " in name)


def _finder(path: Path, where: str) -> Any:
    def find(value: Any) -> Any:
        return value if isinstance(value, CellPicture) else find_picture(value, path.parent, where)

    return find


@lru_cache(maxsize=2)
def _column(path: Path, group: int, name: str) -> Any:
    import pyarrow.parquet as parquet

    return parquet.ParquetFile(path).read_row_group(group, [name])[name]


def _cell(path: Path, group: int, number: int, name: str) -> bytes:
    value = _column(path, group, name)[number].as_py()
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise ValueError("the cell holds no picture")
    return content


def read_hub(name: str) -> Iterator[Row | Fault]:
    """The rows of a data set of the hub, `NAME` or `NAME:SPLIT` (without one: train). It needs `datasets`."""
    import datasets

    dataset_id, _, split = name.partition(":")
    try:
        table = datasets.load_dataset(dataset_id, split=split or "train")
    except Exception as error:  # whatever the library and the network raise
        raise ValueError(f"hub:{name}: cannot be loaded ({' '.join(str(error).split())[:300]})") from None
    heavy = [key for key, feature in table.features.items() if isinstance(feature, datasets.Image)]
    for key in heavy:
        table = table.cast_column(key, datasets.Image(decode=False))
    light = table.remove_columns(heavy) if heavy else table
    for number in range(len(table)):
        where = f"hub:{name}:{number}"
        cells = {
            key: CellPicture(f"{where}, {key}", table._fingerprint, partial(_hub_cell, table, number, key))
            for key in heavy
        }
        yield read_record({**light[number], **cells}, where, _finder(Path(), where))


def _hub_cell(table: Any, number: int, key: str) -> bytes:
    cell = table[number][key]
    return cell["bytes"] if cell.get("bytes") else Path(cell["path"]).read_bytes()
