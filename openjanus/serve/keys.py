"""API keys from where an operator keeps them."""

import os
from pathlib import Path


def read_keys(path: Path | None) -> list[str]:
    """API keys from a file, one a line, and from OPENJANUS_API_KEY. Raises ValueError for a file without any."""
    keys = []
    if path is not None:
        try:
            lines = [line.strip() for line in path.read_text().splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: cannot read API keys there ({error})") from None
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise ValueError(f"{path}: no API key in it, expected one a line")
    if key := os.environ.get("OPENJANUS_API_KEY", "").strip():
        keys.append(key)
    return keys
