"""The guidance that a request to vLLM asks for. No vLLM is needed here."""

import math
from collections.abc import Mapping
from typing import Any


def requested_guidance(extra_args: Mapping[str, Any] | None) -> float | None:
    """The scale in a request's `extra_args`, None if there is none.

    Raises ValueError for what is no scale, and for `image_guidance`: it needs a third row.
    """
    given = extra_args or {}
    if given.get("image_guidance") is not None:
        raise ValueError(
            "image_guidance needs three guidance rows, but the plugin for vLLM has two for each drawing: use "
            "`openjanus generate`"
        )
    value = given.get("guidance")
    if value is None:
        return None
    if not isinstance(value, (int, float)) or not 1 <= value < math.inf:
        raise ValueError(f"guidance is {value!r}, expected 1 or more")
    return float(value)
