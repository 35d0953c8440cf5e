"""The rules of the house, read off the syntax trees: imports go down only, and a few things never stand in the code.

Each rule is a function from one module to its complaints, so that the tests can also show it a bad snippet.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = {
    "sequence": 0, "config": 0, "machine": 0,
    "model": 1, "processing": 1, "runtime": 1, "interruption": 1,
    "weights": 2, "data": 2, "ahead": 2,
    "inference": 3, "starting": 3,
    "picture_files": 4, "training": 4, "emoji": 4, "readers": 4, "source": 4,
    "serve": 5, "terminal": 5, "flops": 5, "eyes": 5, "parallel": 5,
    "fleet": 6, "bench": 6, "recipes": 6,
    "cli": 7, "testing": 7,
    "__main__": 8,
}  # fmt: skip

FILES_AND_DEVICES = {
    "os", "io", "pathlib", "shutil", "tempfile", "glob", "json", "safetensors", "huggingface_hub", "PIL",
    "openjanus.runtime", "openjanus.weights", "torch.cuda", "torch.distributed",
}  # fmt: skip

# What inference adds to a language model (inference/body.py).
INFERENCE = {"Decode", "MAX_DECODE", "cache_dtype", "prepare", "several"}


@dataclass(frozen=True)
class Module:
    """One source file: its path from the repository's root, with slashes, and its syntax tree."""

    path: str
    tree: ast.Module

    @classmethod
    def parse(cls, path: str, source: str) -> "Module":
        return cls(path, ast.parse(source, path))

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and dotted name of all that is imported, anywhere in the file: `from a import b` gives `a.b`."""
        package = self.name.split(".") if self.path.endswith("__init__.py") else self.name.split(".")[:-1]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                origin = [*base, *(node.module.split(".") if node.module else [])]
                yield from ((node.lineno, ".".join([*origin, alias.name])) for alias in node.names)
            elif isinstance(node, ast.Call) and called(node) in (
                "import_module",
                "importlib.import_module",
                "__import__",
            ):
                yield from (
                    (node.lineno, arg.value)
                    for arg in node.args[:1]
                    if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
                )


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def within(name: str, roots: set[str]) -> bool:
    """Whether the dotted `name` is one of `roots` or lies inside one."""
    return any(name == root or name.startswith(root + ".") for root in roots)


# --- floors


def imports_go_down(module: Module) -> Iterator[str]:
    if module.name == "openjanus" or not module.name.startswith("openjanus."):
        return
    part = module.name.split(".")[1]
    if part not in FLOORS:
        yield f"{module.path}: {part!r} has no floor; give it one in FLOORS"
        return
    for line, name in module.imports():
        if not within(name, {"openjanus"}) or name == "openjanus.__version__":
            continue
        target = name.split(".")[1] if "." in name else "openjanus"
        floor = FLOORS.get(target, max(FLOORS.values()) + 1)  # the package's own __init__ stands above all
        if target != part and floor >= FLOORS[part]:
            yield f"{module.path}:{line}: {part} (floor {FLOORS[part]}) imports {name} (floor {floor})"


def model_and_processing_are_strangers(module: Module) -> Iterator[str]:
    for one, other in (("openjanus.model", "openjanus.processing"), ("openjanus.processing", "openjanus.model")):
        if within(module.name, {one}):
            yield from (
                f"{module.path}:{line}: {one} imports {name}"
                for line, name in module.imports()
                if within(name, {other})
            )


def model_knows_no_files_or_devices(module: Module) -> Iterator[str]:
    if not within(module.name, {"openjanus.model"}):
        return
    for line, name in module.imports():
        if within(name, FILES_AND_DEVICES):
            yield f"{module.path}:{line}: model imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and called(node) in ("open", "torch.load", "torch.save"):
            yield f"{module.path}:{node.lineno}: model calls {called(node)}"


def scripts_import_no_tests(module: Module) -> Iterator[str]:
    # What both need stands in openjanus.testing.
    if not within(module.name, {"tests"}):
        yield from (
            f"{module.path}:{line}: imports {name}" for line, name in module.imports() if within(name, {"tests"})
        )


def model_knows_no_inference(module: Module) -> Iterator[str]:
    """No word of it, in names and docstrings, and none of its own names."""
    if within(module.name, {"openjanus.model"}):
        for node in ast.walk(module.tree):
            words = {name for _, name in ast.iter_fields(node) if isinstance(name, str)}  # names, arguments, docstrings
            yield from (
                f"{module.path}: model says {word!r}; inference wraps it from outside"
                for word in words
                if "inference" in word.lower() or word in INFERENCE
            )


# --- never in the code


def no_torchvision(module: Module) -> Iterator[str]:
    # It replaces the CPU build of torch by a CUDA one; pixels are handled with PIL and numpy.
    for line, name in module.imports():
        if within(name, {"torchvision"}):
            yield f"{module.path}:{line}: imports {name}"


def has_docstring(module: Module) -> Iterator[str]:
    if not (ast.get_docstring(module.tree) or "").strip():
        yield f"{module.path}: no module docstring"


def no_utils_file(module: Module) -> Iterator[str]:
    if module.path.split("/")[-1] == "utils.py":
        yield f"{module.path}: name the file after what it is about"


def no_pickle(module: Module) -> Iterator[str]:
    # Unpickling a file runs its code, so a checkpoint is read as tensors only.
    for line, name in module.imports():
        if within(name, {"pickle", "torch.load"}):
            yield f"{module.path}:{line}: imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and called(node) in ("torch.load", "torch.serialization.load"):
            given = {keyword.arg: keyword.value for keyword in node.keywords}.get("weights_only")
            if not (isinstance(given, ast.Constant) and given.value is True):
                yield f"{module.path}:{node.lineno}: torch.load without weights_only=True"


Rule = Callable[[Module], Iterator[str]]

RULES: tuple[Rule, ...] = (
    imports_go_down,
    model_and_processing_are_strangers,
    model_knows_no_files_or_devices,
    scripts_import_no_tests,
    model_knows_no_inference,
    no_torchvision,
    has_docstring,
    no_utils_file,
    no_pickle,
)

BAD: tuple[tuple[Rule, str, str], ...] = (
    (imports_go_down, "openjanus/sequence.py", "import openjanus.config"),
    (imports_go_down, "openjanus/model/janus.py", "from openjanus.weights.checkpoint import load"),
    (imports_go_down, "openjanus/model/janus.py", "from openjanus import weights"),
    (imports_go_down, "openjanus/model/janus.py", "import openjanus"),
    (imports_go_down, "openjanus/model/janus.py", "from ..data import world"),
    (imports_go_down, "openjanus/data/__init__.py", "from .. import inference"),
    (imports_go_down, "openjanus/emoji/world.py", "def late():\n    from openjanus.cli import main"),
    (imports_go_down, "openjanus/weights/maps.py", "import importlib\nimportlib.import_module('openjanus.training')"),
    (imports_go_down, "openjanus/inference/engine.py", "from openjanus.emoji import world"),
    (imports_go_down, "openjanus/serve/app.py", "from openjanus.fleet import endpoint"),
    (imports_go_down, "openjanus/recipes/nano.py", "from openjanus.cli import main"),
    (imports_go_down, "openjanus/newcomer.py", ""),
    (imports_go_down, "openjanus/inference/engine.py", "from openjanus.training.loop import fit"),
    (imports_go_down, "openjanus/training/loop.py", "from openjanus.emoji.world import scene"),
    (model_and_processing_are_strangers, "openjanus/model/janus.py", "from openjanus.processing.text import encode"),
    (model_and_processing_are_strangers, "openjanus/processing/image.py", "from ..model import janus"),
    (model_knows_no_files_or_devices, "openjanus/model/janus.py", "from pathlib import Path"),
    (model_knows_no_files_or_devices, "openjanus/model/janus.py", "from openjanus.runtime import Runtime"),
    (model_knows_no_files_or_devices, "openjanus/model/janus.py", "from safetensors.torch import load_file"),
    (model_knows_no_files_or_devices, "openjanus/model/janus.py", "data = open('weights')"),
    (scripts_import_no_tests, "scripts/make_parity.py", "from tests.parity import stages"),
    (scripts_import_no_tests, "openjanus/testing/__init__.py", "import tests.tiny"),
    (model_knows_no_inference, "openjanus/model/janus.py", "from openjanus.inference.body import prepare"),
    (model_knows_no_inference, "openjanus/model/attention.py", "def several(linears, x): ..."),
    (model_knows_no_inference, "openjanus/model/attention.py", "cache.cache_dtype = None"),
    (model_knows_no_inference, "openjanus/model/language_model.py", "def f():\n    'see inference/body.py'"),
    (no_torchvision, "tests/test_it.py", "import torchvision.transforms as T"),
    (no_torchvision, "openjanus/emoji/world.py", "def late():\n    from torchvision import ops"),
    (has_docstring, "openjanus/config.py", "import json"),
    (no_utils_file, "openjanus/data/utils.py", ""),
    (no_pickle, "openjanus/weights/maps.py", "import pickle"),
    (no_pickle, "openjanus/weights/maps.py", "from pickle import loads"),
    (no_pickle, "openjanus/weights/maps.py", "from torch import load"),
    (no_pickle, "openjanus/weights/maps.py", "import torch\ntorch.load(path)"),
    (no_pickle, "openjanus/weights/maps.py", "import torch\ntorch.load(path, weights_only=False)"),
)

GOOD = (
    ("openjanus/__init__.py", "from openjanus.inference import Engine"),
    ("openjanus/model/janus.py", "from openjanus.model.attention import attend\nfrom . import attention"),
    (
        "openjanus/weights/maps.py",
        "import torch\nfrom openjanus import __version__, model\ntorch.load(p, weights_only=True)",
    ),
    (
        "openjanus/training/loop.py",
        "from openjanus.data.sources import find_source\nfrom openjanus.sequence import Batch",
    ),
    ("openjanus/cli/train.py", "from openjanus import recipes\nimport openjanus.serve.app, openjanus.inference"),
    ("openjanus/recipes/nano.py", "from openjanus.training import run\nimport pickletools, json"),
)


def modules() -> list[Module]:
    paths = sorted(path for folder in ("openjanus", "scripts", "tests") for path in (ROOT / folder).rglob("*.py"))
    return [Module.parse(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_house_keeps(rule: Rule) -> None:
    found = modules()
    assert any(module.name == "openjanus" for module in found)
    complaints = [complaint for module in found for complaint in rule(module)]
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize(("rule", "path", "source"), BAD)
def test_rule_sees(rule: Rule, path: str, source: str) -> None:
    assert list(rule(Module.parse(path, source)))


@pytest.mark.parametrize(("path", "source"), GOOD)
def test_rules_let_pass(path: str, source: str) -> None:
    module = Module.parse(path, f'"""What it is."""\n{source}')
    assert not [complaint for rule in RULES for complaint in rule(module)]


def test_every_rule_is_shown_something_bad() -> None:
    assert {rule for rule, _, _ in BAD} == set(RULES)
