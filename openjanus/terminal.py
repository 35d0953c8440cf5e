"""A chat in the terminal: text, pictures by path, drawings.

    you> @cat.png what is it?
    janus> a cat
    you> /draw two red apples
    two-red-apples-seed0.png

An error is printed on stderr and does not end the chat.
"""

import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from PIL import Image

from openjanus.inference.engine import Engine
from openjanus.inference.sampling import SamplingOptions
from openjanus.picture_files import PictureFolder, file_name
from openjanus.processing.image import open_image
from openjanus.processing.processor import Message

HELP = """\
@PATH          adds a picture to your message, on a separate line; @"a path with spaces"
               to place it inside the text: @cat.png <image_placeholder> is Figure 1.
/draw PROMPT   draws a picture into a file
/seed NUMBER   the seed of the next drawing, and of answers with a temperature
/new           starts a new conversation
/quit          ends the chat, like Ctrl-D; Ctrl-C stops an answer"""
PICTURE = re.compile(r'(?:^|(?<=\s))@(?:"([^"]+)"|(\S+))')


class Chat:
    """One conversation with an engine. `messages` is its history, pictures included."""

    def __init__(
        self,
        engine: Engine,
        options: SamplingOptions,
        out: Path = Path("."),
        max_new_tokens: int = 512,
        system: str | None = None,
    ):
        self.engine, self.options, self.max_new_tokens = engine, options, max_new_tokens
        self.drawings = PictureFolder(out)
        self.system = [Message("system", [system])] if system is not None else []
        self.messages: list[Message] = []

    def run(self, images: Sequence[Image.Image] = (), read: Callable[[str], str] = input) -> None:
        """Reads lines until the end of input; `images` come before the first text. Errors are printed, not raised."""
        with suppress(ImportError):
            import readline  # noqa: F401  (gives `input` a history and editing)
        waiting = list(images)
        print("/help lists the commands")
        while True:
            try:
                line = read("you> ").strip()
            except (EOFError, RuntimeError):  # RuntimeError: standard input is closed
                print()
                return
            except KeyboardInterrupt:
                print()
                continue
            if line in ("/quit", "/exit"):
                return
            try:
                if line.startswith("/"):
                    self._command(*line[1:].split(maxsplit=1))
                elif line:
                    self.say([*waiting, *with_pictures(line)])
                    waiting = []
            except (ValueError, OSError) as error:
                print(f"error: {' '.join(str(error).split())}", file=sys.stderr)

    def say(self, content: Sequence[str | Image.Image]) -> str:
        """One turn: streams the answer to stdout and adds both messages to the history. A failed turn adds nothing."""
        turn = Message("user", list(content))
        pieces: list[str] = []
        print("janus> ", end="", flush=True)
        try:
            for piece in self.engine.chat(
                [*self.system, *self.messages, turn], self.options, max_new_tokens=self.max_new_tokens
            ):
                print(piece, end="", flush=True)
                pieces.append(piece)
        except KeyboardInterrupt:
            pass  # the partial answer is kept
        except ValueError as error:
            raise ValueError(f"{error}; /new begins a new conversation") from None
        finally:
            print()
        answer = "".join(pieces)
        self.messages += [turn, Message("assistant", [answer])]
        return answer

    def _command(self, name: str = "", rest: str = "") -> None:
        if name == "new":
            self.messages = []
        elif name == "seed" and rest.isdecimal():
            self.options = replace(self.options, seed=int(rest))
        elif name == "draw" and rest:
            self._draw(rest)
        elif name == "help":
            print(HELP)
        else:
            raise ValueError(f"{f'/{name} {rest}'.strip()!r} is not a command; /help lists them")

    def _draw(self, prompt: str) -> None:
        options = self.engine.options(seed=self.options.seed, n=1)
        try:
            (image,) = self.engine.generate(prompt, options)
        except KeyboardInterrupt:
            return
        self.drawings.folder.mkdir(parents=True, exist_ok=True)
        print(self.drawings.save(image, f"{file_name(prompt)}-seed{options.seed}", prompt, options, 0))


def with_pictures(line: str) -> list[str | Image.Image]:
    """The text and the pictures (@PATH) of a line, in order. Raises ValueError for a missing picture."""
    parts: list[str | Image.Image] = []
    start = 0
    for match in PICTURE.finditer(line):
        if words := line[start : match.start()].strip():
            parts.append(words)
        parts.append(open_image(_expanded(match[1] or match[2])))
        start = match.end()
    if words := line[start:].strip():
        parts.append(words)
    return parts


def _expanded(path: str) -> Path:
    """A path with `~` and `~user` replaced. Raises ValueError for an unknown user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from None
