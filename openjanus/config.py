"""Config dataclasses to and from plain dicts, JSON and `key=value` overrides.

A config is a frozen dataclass of numbers, strings, tuples and other configs. A field that is a union of config
classes is stored with a `type` key that names the class: *the type selects the class*, nobody compares strings. An
unknown key is an error that names the nearest known one, so that a typing slip never trains the wrong model.
"""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

C = TypeVar("C")


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
    """The inverse of `to_dict`. Raises ValueError naming the path of a wrong, unknown or missing key."""
    return _build(cls, data, where or cls.__name__)


def load(cls: type[C], path: Path) -> C:
    """Reads one config from a JSON file."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    return from_dict(cls, data, str(path))


def to_json(config: Any) -> str:
    """A config as indented JSON."""
    return json.dumps(to_dict(config), indent=1, ensure_ascii=False)


def save(config: Any, path: Path) -> None:
    """Writes one config as JSON, atomically."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(to_json(config) + "\n", encoding="utf-8")
    draft.replace(path)


def override(config: C, assignments: Iterable[str]) -> C:
    """Returns `config` with `key.path=value` assignments applied; values are JSON, or else plain strings.

    A step of the path into a tuple is an index or the `name` of one of its items: `stages.2.num_steps=100`,
    `stages.unify.num_steps=100`.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"override {assignment!r}: expected key=value, such as seed=1")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        data = to_dict(config)
        _assign(data, path.split("."), value, path)
        config = from_dict(type(config), data)
    return config


def _assign(data: Any, steps: list[str], value: Any, path: str) -> None:
    """Sets one value inside plain data; keys of mappings may hold dots themselves, as the names of sources do."""
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
    match = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else f"; known: {', '.join(known)}"


def _build(hint: Any, data: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return data
    if origin in (typing.Union, types.UnionType):
        return _build_union(arguments, data, where)
    if origin is typing.Literal:
        if data not in arguments:
            raise ValueError(f"{where}: got {data!r}, expected one of {', '.join(map(repr, arguments))}")
        return data
    if origin is tuple:
        if not isinstance(data, (list, tuple)):
            raise ValueError(f"{where}: got {data!r}, expected a list")
        items = [arguments[0]] * len(data) if arguments[-1] is Ellipsis else list(arguments)
        if len(items) != len(data):
            raise ValueError(f"{where}: got {len(data)} items, expected {len(items)}")
        return tuple(
            _build(item, value, f"{where}.{i}") for i, (item, value) in enumerate(zip(items, data, strict=True))
        )
    if origin is dict:
        if not isinstance(data, dict):
            raise ValueError(f"{where}: got {data!r}, expected a mapping")
        return {key: _build(arguments[1], value, f"{where}.{key}") for key, value in data.items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _build_dataclass(hint, data, where)
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if hint in (None, type(None)):
        hint = type(None)
    if not isinstance(data, hint) or (isinstance(data, bool) and hint is not bool):
        raise ValueError(f"{where}: got {data!r}, expected {getattr(hint, '__name__', hint)}")
    return data


def _build_union(arguments: tuple[Any, ...], data: Any, where: str) -> Any:
    if isinstance(data, dict) and "type" in data:
        classes = {a.__name__: a for a in arguments if isinstance(a, type) and dataclasses.is_dataclass(a)}
        if data["type"] not in classes:
            raise ValueError(f"{where}: unknown type {data['type']!r}{_nearest(str(data['type']), classes)}")
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
        raise ValueError(f"{where}: got {data!r}, expected a mapping of {cls.__name__}")
    data = dict(data)
    named = data.pop("type", cls.__name__)
    if named != cls.__name__:
        raise ValueError(f"{where}: got type {named!r}, expected {cls.__name__!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            raise ValueError(f"{where}: unknown key {key!r}{_nearest(key, fields)}")
    missing = [
        name
        for name, f in fields.items()
        if name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where}: missing {', '.join(missing)}")
    return cls(**{key: _build(hints[key], value, f"{where}.{key}") for key, value in data.items()})
