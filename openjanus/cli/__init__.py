"""The command line: openjanus generate | ask | chat | demo | serve | train | tokenize | evaluate | convert | bench.

One file a command. Every wrong input ends in one line on stderr and exit code 2; nothing is half-written.
"""

import os
import sys
from collections.abc import Callable

import tyro

from openjanus.cli import bench
from openjanus.cli.ask import ask
from openjanus.cli.chat import chat
from openjanus.cli.convert import convert
from openjanus.cli.demo import demo
from openjanus.cli.evaluate import evaluate
from openjanus.cli.generate import generate
from openjanus.cli.serve import serve
from openjanus.cli.tokenize import tokenize
from openjanus.cli.train import train

COMMANDS: dict[str, Callable[..., None]] = {
    f.__name__: f for f in (generate, ask, chat, demo, serve, train, tokenize, evaluate, convert)
}
BENCHES: dict[str, Callable[..., None]] = {f.__name__: f for f in (bench.draw, bench.answer, bench.serve)}


def main(arguments: list[str] | None = None) -> None:
    """The entry point; exits 2 with one line for what a user can mend."""
    # torch reads this at its first tensor: large ones in huge pages make a step some 3% faster (LOG.md)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        _commands().cli(prog="openjanus", args=arguments)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _commands() -> tyro.extras.SubcommandApp:
    """All commands; `bench` is a group of its own."""
    app, benches = tyro.extras.SubcommandApp(), tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        app.command(name=name)(command)
    for name, command in BENCHES.items():
        benches.command(name=name)(command)
    app.command(benches, name="bench", help="Measure speed here, or a server under load.")
    return app
