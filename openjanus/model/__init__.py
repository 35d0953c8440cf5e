"""The network: two eyes, one causal body, two heads (floor 1).

Each file of this folder is an attribute of it, imported when it is first asked for. So a row of a table in janus.py can
name a new eye without an import: `model.my_eye.MyEyeConfig: model.my_eye.MyEye`.
"""

from importlib import import_module
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    if name.startswith("_"):
        raise AttributeError(f"{__name__} has no attribute {name!r}")
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(f"{__name__} has no file {name}.py") from error
