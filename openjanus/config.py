"""Configs: dataclasses with checked values, to and from plain dicts, JSON and `key=value` overrides.

    @dataclass(frozen=True)
    class Stage(Config):
        num_steps: PositiveInt                        # Annotated[int, Range(1)]
        lr: Annotated[float, Range(above=0)]

A config is a frozen dataclass of numbers, strings, tuples and other configs. Each number states its range in its type,
and is checked whenever a config is made, in Python or from a file. A field that is a union of config classes, or
`OneOf` a table, is stored with a `type` key that names the class. An unknown key is an error that names the nearest
known one.
"""

import dataclasses
import difflib
import json
import math
import numbers
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

C = TypeVar("C")
UNIONS = (typing.Union, types.UnionType)


@dataclasses.dataclass(frozen=True)
class Range:
    """The range of a number: `least` and `most` are inclusive, `above` and `below` exclusive.

    NaN and infinity are never allowed.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, number: Any) -> bool:
        return math.isfinite(number) and self.least <= number <= self.most and self.above < number < self.below

    def __str__(self) -> str:
        if math.isfinite(self.least) and math.isfinite(self.most):
            return f"{self.least} to {self.most}"
        bounds = {
            f"{self.least} or more": self.least,
            f"more than {self.above}": self.above,
            f"at most {self.most}": self.most,
            f"less than {self.below}": self.below,
        }
        return " and ".join(words for words, bound in bounds.items() if math.isfinite(bound)) or "a finite number"


@dataclasses.dataclass(frozen=True, eq=False)
class OneOf:
    """In a field's type, `Annotated[Base, OneOf(TABLE)]`: a config of any class that is a key of the table.

    The table is read whenever a config is built, so classes may be added to it at any time.
    """

    table: Mapping[type, Any]


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(above=0)]
NonNegativeFloat = Annotated[float, Range(0)]
FiniteFloat = Annotated[float, Range()]


class ConfigError(ValueError):
    """An invalid value of a config; the message begins with the key."""


class Config:
    """Base of all configs. The constructor raises ConfigError for a number outside its range, or if `check` raises
    it."""

    def __post_init__(self) -> None:
        for name, hint in hints_of(type(self)).items():
            _check_ranges(hint, getattr(self, name), name)
        self.check()

    def check(self) -> None:
        """Checks rules between fields; subclasses override it. Raises ConfigError."""


def hints_of(cls: type) -> dict[str, Any]:
    """The type of each field, ranges included."""
    return typing.get_type_hints(cls, include_extras=True)


def _check_ranges(hint: Any, value: Any, where: str) -> None:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        for bounds in (m for m in hint.__metadata__ if isinstance(m, Range)):
            _check_number(arguments[0], bounds, value, where)
        _check_ranges(arguments[0], value, where)
    elif origin is tuple:
        if not isinstance(value, tuple):
            raise ConfigError(f"{where} is {value!r}, expected a tuple")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ConfigError(f"{where} has {len(value)} items, expected {len(arguments)}")
        for i, item in enumerate(value):
            _check_ranges(arguments[0 if arguments[-1] is Ellipsis else i], item, f"{where}.{i}")
    elif origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where} is {value!r}, expected a mapping")
        for key, item in value.items():
            _check_ranges(arguments[1], item, f"{where}.{key}")
    elif origin in UNIONS and value is not None:
        for argument in arguments:
            container = typing.get_origin(argument)
            if container not in (tuple, dict) or isinstance(value, container):
                _check_ranges(argument, value, where)


def _check_number(kind: type, bounds: Range, value: Any, where: str) -> None:
    abstract = numbers.Integral if kind is int else numbers.Real
    if isinstance(value, bool) or not isinstance(value, abstract):
        raise ConfigError(f"{where} is {value!r}, expected {kind.__name__}")
    if value not in bounds:
        raise ConfigError(f"{where} is {value}, expected {bounds}")


def to_dict(config: Any) -> Any:
    """A config as JSON-ready plain data; nested configs carry their class name under `type`."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"type": type(config).__name__, **fields}
    if isinstance(config, (list, tuple)):
        return [to_dict(item) for item in config]
    if isinstance(config, dict):
        return {key: to_dict(value) for key, value in config.items()}
    return config


def from_dict(cls: type[C], data: Any, where: str = "") -> C:
    """The inverse of `to_dict`. Raises ValueError with the path of a wrong, unknown or missing key.

    `where`: the source of the data for errors, such as a file; without it the paths begin with the class.
    """
    if not where:
        return _build(cls, data, cls.__name__)
    try:
        return _build(cls, data, "")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def load(cls: type[C], path: Path) -> C:
    """Reads one config from a JSON file."""
    return from_dict(cls, read_json(path), str(path))


def read_json(path: Path) -> Any:
    """The plain data of a JSON file. Raises ValueError if it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None


def to_json(config: Any) -> str:
    """A config as indented JSON."""
    return json.dumps(to_dict(config), indent=1, ensure_ascii=False)


def save(config: Any, path: Path) -> None:
    """Writes one config as JSON, atomically. Raises OSError that names the file."""
    write_text(path, to_json(config) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file atomically. Raises OSError that names it."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise OSError(f"{path}: cannot be written ({error.strerror})") from error


def differences(before: Any, now: Any, where: str = "") -> list[tuple[str, Any, Any]]:
    """The differences between two results of `to_dict`: key path, old value, new value (None: no such key)."""
    if isinstance(before, list) and isinstance(now, list):
        before, now = (dict(zip(_steps(side), side, strict=True)) for side in (before, now))
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in {**before, **now} if key != "type"]
        if before.get("type") == now.get("type"):
            return [d for key in keys for d in differences(before.get(key), now.get(key), _below(where, key))]
    return [] if before == now else [(where, before, now)]


def _steps(items: Any) -> list[Any]:
    """Names the items of a tuple for a key path: by their `name`, or else by their index."""
    return [item["name"] if isinstance(item, dict) and "name" in item else i for i, item in enumerate(items)]


def override(config: C, assignments: Iterable[str]) -> C:
    """Returns `config` with `key.path=value` assignments applied; values are JSON, or else plain strings.

    All are applied before the checks, so that dependent values can change together. In a path, an item of a tuple is an
    index or the `name` of the item: `stages.2.num_steps=100`,
    `stages.unify.num_steps=100`.
    """
    data = to_dict(config)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"override {assignment!r}: expected key=value, such as seed=1")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        _assign(data, path.split("."), value, path)
    return _build(type(config), data, "")


def _assign(data: Any, steps: list[str], value: Any, path: str) -> None:
    """Sets one value inside plain data; keys of a dict may contain dots, as names of sources do."""
    known: dict[str, Any] = {}
    if isinstance(data, list):
        named = {item["name"]: i for i, item in enumerate(data) if isinstance(item, dict) and "name" in item}
        known = {str(i): i for i in range(len(data))} | named
    elif isinstance(data, dict):
        known = {key: key for key in data if key != "type"}
    else:
        raise ValueError(f"override {path}: {data!r} is a plain value and has no key {steps[0]!r}")
    length = next((n for n in range(len(steps), 0, -1) if ".".join(steps[:n]) in known), 0)
    if not length:
        raise ValueError(f"override {path}: unknown key {steps[0]!r}{_nearest(steps[0], known)}")
    key, rest = known[".".join(steps[:length])], steps[length:]
    if rest:
        _assign(data[key], rest, value, path)
    else:
        data[key] = value


def _nearest(key: str, known: Iterable[str]) -> str:
    known = list(known)
    if not known:
        return ""
    match = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else f"; known: {', '.join(known)}"


def _build(hint: Any, data: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return data
    if origin is Annotated:
        one_of = _table_of(hint) is not None
        return _build_union((hint,), data, where) if one_of else _build(arguments[0], data, where)
    if origin in UNIONS:
        return _build_union(arguments, data, where)
    if origin is typing.Literal:
        if data not in arguments:
            raise ValueError(f"{where} is {data!r}, expected one of {', '.join(map(repr, arguments))}")
        return data
    if origin is tuple:
        if not isinstance(data, (list, tuple)):
            raise ValueError(f"{where} is {data!r}, expected a list")
        items = [arguments[0]] * len(data) if arguments[-1] is Ellipsis else list(arguments)
        if len(items) != len(data):
            raise ValueError(f"{where} has {len(data)} items, expected {len(items)}")
        return tuple(
            _build(item, value, _below(where, step))
            for item, value, step in zip(items, data, _steps(data), strict=True)
        )
    if origin is dict:
        if not isinstance(data, dict):
            raise ValueError(f"{where} is {data!r}, expected a mapping")
        return {key: _build(arguments[1], value, _below(where, key)) for key, value in data.items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _build_dataclass(hint, data, where)
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if hint in (None, type(None)):
        hint = type(None)
    if not isinstance(data, hint) or (isinstance(data, bool) and hint is not bool):
        raise ValueError(f"{where} is {data!r}, expected {getattr(hint, '__name__', hint)}")
    return data


def _table_of(hint: Any) -> Mapping[type, Any] | None:
    """The table of a type that is `OneOf` it; otherwise None."""
    return next((m.table for m in getattr(hint, "__metadata__", ()) if isinstance(m, OneOf)), None)


def _build_union(arguments: tuple[Any, ...], data: Any, where: str) -> Any:
    tables = [table for argument in arguments if (table := _table_of(argument)) is not None]
    arguments = (*(cls for table in tables for cls in table), *(a for a in arguments if _table_of(a) is None))
    if isinstance(data, dict) and "type" in data:
        classes = {a.__name__: a for a in arguments if isinstance(a, type) and dataclasses.is_dataclass(a)}
        if data["type"] not in classes:
            own = "; a class of your own must be imported before" if tables else ""
            unknown = f"unknown type {data['type']!r}{_nearest(str(data['type']), classes)}{own}"
            raise ValueError(_about(where, unknown))
        return _build_dataclass(classes[data["type"]], data, where)
    errors = []
    for argument in arguments:
        try:
            return _build(argument, data, where)
        except ValueError as error:
            errors.append(str(error))
    raise ValueError("; or ".join(errors))


def _build_dataclass(cls: Any, data: Any, where: str) -> Any:
    if dataclasses.is_dataclass(data) and isinstance(data, cls):
        return data
    if not isinstance(data, dict):
        raise ValueError(f"{where or 'it'} is {data!r}, expected a mapping of {cls.__name__}")
    data = dict(data)
    named = data.pop("type", cls.__name__)
    if named != cls.__name__:
        raise ValueError(f"{_below(where, 'type')} is {named!r}, expected {cls.__name__!r}")
    hints = hints_of(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            raise ValueError(_about(where, f"unknown key {key!r}{_nearest(key, fields)}"))
    missing = [
        name
        for name, f in fields.items()
        if name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(_about(where, f"missing {', '.join(missing)}"))
    values = {key: _build(hints[key], value, _below(where, key)) for key, value in data.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(_below(where, str(error))) from None


def _below(where: str, step: Any) -> str:
    return f"{where}.{step}" if where else str(step)


def _about(where: str, text: str) -> str:
    return f"{where}: {text}" if where else text
