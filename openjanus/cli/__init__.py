"""The command line: openjanus generate | edit | ask | chat | demo | serve | data | train | recipes | tokenize |
evaluate | ablate | convert | push | bench.

One file a command. Results go to stdout, messages to stderr. Exit codes: 0 done; 2 a user's error,
explained in one line; 130 interrupted (Ctrl-C), 129 hung up (SIGHUP), 143 terminated (SIGTERM); a training is saved
before it ends; 141 the reader of stdout closed the pipe; 1 a bug of openjanus. A server that ends after a signal
returns 0 (docs/serve.md).
"""

import codecs
import os
import re
import sys
import traceback
from collections.abc import Callable
from importlib import metadata

import tyro

from openjanus import __version__
from openjanus.cli import bench
from openjanus.cli.ablate import ablate
from openjanus.cli.ask import ask
from openjanus.cli.chat import chat
from openjanus.cli.convert import convert
from openjanus.cli.data import check
from openjanus.cli.demo import demo
from openjanus.cli.edit import edit
from openjanus.cli.evaluate import evaluate
from openjanus.cli.generate import generate
from openjanus.cli.push import push
from openjanus.cli.recipes import recipes
from openjanus.cli.serve import serve
from openjanus.cli.tokenize import tokenize
from openjanus.cli.train import train

COMMANDS: dict[str, Callable[..., None]] = {
    f.__name__: f
    for f in (generate, edit, ask, chat, demo, serve, train, recipes, tokenize, evaluate, ablate, convert, push)
}
BENCHES: dict[str, Callable[..., None]] = {f.__name__: f for f in (bench.draw, bench.answer, bench.train, bench.serve)}


def main(arguments: list[str] | None = None) -> None:
    """The entry point. OPENJANUS_DEBUG=1 shows the traceback of an error."""
    # torch reads this at its first allocation: huge pages make a step about 3% faster (LOG.md)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="openjanus")
    try:
        if (sys.argv[1:] if arguments is None else arguments) == ["--version"]:
            print(f"openjanus {__version__}")
        else:
            _commands().cli(prog="openjanus", args=arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
        sys.exit(141)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("OPENJANUS_DEBUG"):
            traceback.print_exc()
        line, code = _explain(error)
        print(f"error: {' '.join(line.split())}", file=sys.stderr)
        sys.exit(code)


def _print_anyway(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encodes what stdout's encoding lacks: bytes of a path as they are, other characters as backslash escapes."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


codecs.register_error("openjanus", _print_anyway)


def _explain(error: Exception) -> tuple[str, int]:
    """The error message in one line, and the exit code."""
    if isinstance(error, ModuleNotFoundError) and error.name and (extra := extra_of(error.name.partition(".")[0])):
        return f"this needs {error.name}: pip install 'openjanus[{extra}]'", 2
    if isinstance(error, (ValueError, OSError, FloatingPointError)):
        return str(error), 2
    return f"{type(error).__name__}: {error}. This is a bug of openjanus; OPENJANUS_DEBUG=1 shows a traceback", 1


def extra_of(module: str) -> str | None:
    """The smallest extra of this package that installs a module, by the package's metadata; None if there is none."""
    extras: dict[str, list[str]] = {}
    for requirement in metadata.requires("openjanus") or ():
        if found := re.match(r"([\w-]+).*extra == ['\"]([\w-]+)['\"]", requirement):
            extras.setdefault(found[2], []).append(found[1].replace("-", "_"))
    matching = [extra for extra, modules in extras.items() if module in modules]
    return min(matching, key=lambda extra: len(extras[extra]), default=None)


def _drop_stdout() -> None:
    """Redirects stdout to the null device, or the interpreter's final flush would fail."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


def _commands() -> tyro.extras.SubcommandApp:
    """All commands; `data` and `bench` are groups."""
    app, benches = tyro.extras.SubcommandApp(), tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        app.command(name=name)(command)
    for name, command in BENCHES.items():
        benches.command(name=name)(command)
    data = tyro.extras.SubcommandApp()
    data.command(name="check")(check)
    app.command(data, name="data", help="Look at data of your own before a training.")
    app.command(benches, name="bench", help="Measure speed here, or a server under load.")
    return app
