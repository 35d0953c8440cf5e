"""Strict reading of foreign config files: unsupported values and unknown keys are errors.

One error lists all problems of a folder's files. Keys that the user names are ignored.
"""

import difflib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from openjanus.config import read_json

MISSING = object()


class ConfigFiles:
    """The config files of a checkpoint folder.

    ignored_keys: keys to ignore, in all sections (`depth`) or in one (`vq_config.depth`). remedy: the advice about
    unknown keys; by default, how to ignore them.
    """

    def __init__(self, folder: Path, ignored_keys: Sequence[str] = (), remedy: str = ""):
        self.folder, self.ignored_keys, self.remedy = folder, frozenset(ignored_keys), remedy
        self.opened: list[Fields] = []

    def read(self, name: str) -> Any:
        """The plain data of a JSON file, without the ignored keys. Raises ValueError if it is not JSON."""
        return _without(read_json(self.folder / name), self.ignored_keys)

    def open(self, name: str) -> "Fields":
        """A file's outermost mapping; empty if there is no such file."""
        path = self.folder / name
        fields = Fields(self.read(name) if path.is_file() else {}, str(path))
        self.opened.append(fields)
        return fields

    def check(self) -> None:
        """Raises ValueError that names all unknown keys and unsupported values of all opened files."""
        problems, unknown = [], []
        for fields in self.opened:
            unknown_here = list(fields.unknown())
            unknown += [key for key, _ in unknown_here]
            messages = [problem for section in fields.all() for problem in section.unsupported]
            if unknown_here:
                plural = "s" * (len(unknown_here) > 1)
                messages.append(f"unknown key{plural} {', '.join(named for _, named in unknown_here)}")
            if messages:
                problems.append(f"{fields.file}: {'; '.join(messages)}")
        if unknown:
            ignore = f"--ignore-config-keys {' '.join(unknown)} (Python: ignore_config_keys)"
            remedy = self.remedy or f"correct it, or ignore it with {ignore}"
            problems.append(f"openjanus cannot tell what an unknown key changes: {remedy}")
        if problems:
            raise ValueError("; ".join(problems))


class Fields:
    """One mapping of a config file; each key must be taken, expected or ignored, or else it is unknown.

    section: its dotted path from the file's outermost mapping.
    """

    def __init__(self, data: Any, file: str, section: str = ""):
        if not isinstance(data, dict):
            raise ValueError(f"{file}: {section or 'the file'} holds {data!r}, expected a mapping")
        self.data, self.file, self.section = data, file, section
        self.seen: set[str] = set()
        self.unsupported: list[str] = []
        self.sections: dict[str, Fields] = {}

    def path(self, key: str) -> str:
        return f"{self.section}.{key}" if self.section else key

    def take(self, key: str, kind: type, default: Any = MISSING) -> Any:
        """The value of a key, of the given type (`float` accepts integers); null counts as absent."""
        self.seen.add(key)
        value = self.data.get(key)
        if value is None:
            if default is MISSING:
                raise ValueError(f"{self.file}: {self.path(key)} is missing")
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{self.file}: {self.path(key)} is {value!r}, expected {kind.__name__}")
        return value

    def size(self, key: str, default: Any = MISSING) -> int:
        """A whole number of 1 or more."""
        value = self.take(key, int, default)
        if value < 1:
            raise ValueError(f"{self.file}: {self.path(key)} is {value}, expected 1 or more")
        return value

    def sizes(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Several such numbers."""
        values = self.take(key, list, list(default))
        if not values or not all(isinstance(x, int) and x >= 1 for x in values):
            raise ValueError(f"{self.file}: {self.path(key)} is {values!r}, expected whole numbers of 1 or more")
        return tuple(values)

    def inner(self, key: str, default: Any = MISSING) -> "Fields":
        """The mapping at a key, the same object each time."""
        if key not in self.sections:
            self.sections[key] = Fields(self.take(key, dict, default), self.file, self.path(key))
        return self.sections[key]

    def expect(self, key: str, *supported: Any) -> None:
        """Accepts a key that is absent, null, or one of these values; `ConfigFiles.check` reports any other."""
        self.seen.add(key)
        value = self.data.get(key)
        if value is not None and value not in supported:
            expected = " or ".join(map(repr, supported)) or "null"
            self.unsupported.append(f"{self.path(key)} is {value!r}, openjanus supports {expected} only")

    def ignore(self, *patterns: str) -> None:
        """Accepts keys that do not change the model."""
        self.seen |= {key for key in self.data if any(fnmatchcase(key, pattern) for pattern in patterns)}

    def all(self) -> Iterator["Fields"]:
        """This mapping and its opened inner mappings."""
        yield self
        for fields in self.sections.values():
            yield from fields.all()

    def unknown(self) -> Iterator[tuple[str, str]]:
        """Path of each unknown key, here and inside, and the same with quotes and the nearest known key."""
        for fields in self.all():
            for key in fields.data:
                if key not in fields.seen:
                    near = difflib.get_close_matches(key, fields.seen, n=1)
                    hint = f" (did you mean {near[0]!r}?)" if near else ""
                    yield fields.path(key), f"{fields.path(key)!r}{hint}"


def _without(data: Any, ignored: frozenset[str], section: str = "") -> Any:
    if not isinstance(data, dict) or not ignored:
        return data
    return {
        key: _without(value, ignored, f"{section}{key}.")
        for key, value in data.items()
        if key not in ignored and f"{section}{key}" not in ignored
    }
