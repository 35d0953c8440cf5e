"""Other people's config files, read strictly: a value that we cannot honour is an error, and so is an unknown key."""

import difflib
import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

MISSING = object()


class Fields:
    """One mapping of a foreign config; every key must be taken, checked or ignored before `done`."""

    def __init__(self, data: Any, where: str):
        if not isinstance(data, dict):
            raise ValueError(f"{where}: got {data!r}, expected a mapping")
        self.data, self.where = dict(data), where
        self.seen: set[str] = set()

    @classmethod
    def load(cls, path: Path) -> "Fields":
        try:
            return cls(json.loads(path.read_text(encoding="utf-8")), str(path))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not JSON ({error})") from None

    def take(self, key: str, kind: type, default: Any = MISSING) -> Any:
        """The value of a key, of the given kind (`float` takes whole numbers too); null counts as absent."""
        self.seen.add(key)
        value = self.data.get(key)
        if value is None:
            if default is MISSING:
                raise ValueError(f"{self.where}: {key} is missing")
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{self.where}: {key} is {value!r}, expected {kind.__name__}")
        return value

    def inner(self, key: str, default: Any = MISSING) -> "Fields":
        return Fields(self.take(key, dict, default), f"{self.where}: {key}")

    def expect(self, key: str, *supported: Any) -> None:
        """Absent, or one of the values that we can honour."""
        self.seen.add(key)
        value = self.data.get(key, supported[0])
        if value not in supported:
            expected = " or ".join(repr(value) for value in supported)
            raise ValueError(f"{self.where}: {key} is {value!r}; openjanus supports {expected} alone")

    def ignore(self, *patterns: str) -> None:
        """Keys that change nothing of what the model computes."""
        self.seen |= {key for key in self.data if any(fnmatchcase(key, pattern) for pattern in patterns)}

    def done(self) -> None:
        for key in self.data:
            if key not in self.seen:
                near = difflib.get_close_matches(key, self.seen, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{self.where}: unknown key {key!r}{hint} (openjanus cannot tell what it changes)")
