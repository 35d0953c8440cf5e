"""The server's log: one line for each request, exceptions with their location, and no text of users by default."""

import logging
import traceback
from dataclasses import dataclass

logger = logging.getLogger("openjanus.serve")


@dataclass
class _Privacy:
    log_prompts: bool = False


_privacy = _Privacy()


def set_up(log_prompts: bool) -> None:
    """Logs to stderr. uvicorn's access log is off, because it contains query strings."""
    _privacy.log_prompts = log_prompts
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("openjanus.serve", "uvicorn.error"):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(logging.INFO if name == "openjanus.serve" else logging.WARNING)


def log_prompt(kind: str, words: str) -> None:
    """Logs a user's text on one line, if `--log-prompts` is set."""
    if _privacy.log_prompts:
        logger.info("%s %r", kind, words)


def log_fault(error: BaseException) -> None:
    """Logs where an exception was raised. Without `--log-prompts` its message is left out, because it may quote a
    user."""
    if _privacy.log_prompts:
        logger.error("fault", exc_info=error)
    else:
        frames = traceback.extract_tb(error.__traceback__)
        place = " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames))
        logger.error("fault %s at %s", type(error).__name__, place or "an unknown place")
