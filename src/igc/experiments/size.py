"""A number of bytes on the command line: ``5000000``, ``5MB``, ``1.5 GB``."""

from __future__ import annotations

import math
import re
from typing import Final

import typer

# Decimal, as everywhere here; MiB would make a budget that no table shows.
_UNITS: Final = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def size(text: str | int) -> int:
    """The number of bytes.

    Raises:
        typer.BadParameter: it is none, or less than one.
    """
    match = re.fullmatch(r"\s*([\d_]+(?:\.\d+)?(?:e\d+)?)\s*([a-z]*)\s*", str(text), re.IGNORECASE)
    unit = _UNITS.get(match[2].lower()) if match else None
    count = float(match[1]) * unit if match and unit else 0.0
    if not math.isfinite(count) or round(count) < 1:
        raise typer.BadParameter(f"{text!r} is no number of bytes; give one such as 5000000, 5MB or 1.5GB")
    return round(count)
