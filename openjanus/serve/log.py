"""What the server writes down: one line a request, faults with their place, no words of a user's unless asked for."""

import logging
import traceback
from dataclasses import dataclass

logger = logging.getLogger("openjanus.serve")


@dataclass
class _Privacy:
    log_prompts: bool = False


_privacy = _Privacy()


def set_up(log_prompts: bool) -> None:
    """Lines to stderr. uvicorn's own access lines are off: they would hold query strings."""
    _privacy.log_prompts = log_prompts
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("openjanus.serve", "uvicorn.error"):
        it = logging.getLogger(name)
        it.handlers, it.propagate = [handler], False
        it.setLevel(logging.INFO if name == "openjanus.serve" else logging.WARNING)


def log_prompt(kind: str, words: str) -> None:
    """A user's words, only where the operator has asked for them; one line, whatever they hold."""
    if _privacy.log_prompts:
        logger.info("%s %r", kind, words)


def log_fault(error: BaseException) -> None:
    """Where something failed. The message of an error may quote a user, so it is left out without `--log-prompts`."""
    if _privacy.log_prompts:
        logger.error("fault", exc_info=error)
    else:
        frames = traceback.extract_tb(error.__traceback__)
        place = " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames))
        logger.error("fault %s at %s", type(error).__name__, place or "an unknown place")
