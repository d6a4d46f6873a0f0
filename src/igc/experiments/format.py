"""Numbers as a person reads them: bytes, counts, factors, times.

Bytes are decimal, as networks count them: 1 kB is 1,000 bytes.
"""

from __future__ import annotations

import math

_UNITS = ("kB", "MB", "GB", "TB", "PB")


def format_bytes(count: float) -> str:
    """``"512 B"``, ``"65.5 kB"``, ``"1.31 MB"``: three significant digits of ``count`` bytes, in decimal units."""
    if round(count) < 1000:
        return f"{round(count)} B"
    scaled = float(count)
    for unit in _UNITS:
        scaled /= 1000
        if scaled < 999.5:
            return f"{_three_digits(scaled)} {unit}"
    return f"{scaled:,.0f} {_UNITS[-1]}"


def shortened(name: str, width: int) -> str:
    """A name that may go on for lines, cut to so many letters, where all of it stands elsewhere."""
    return name if len(name) <= width else f"{name[: width - 1]}…"


def rounds_each(count: int) -> str:
    """``"30 rounds each"``, ``"1 round each"``: what each entrant of a comparison has."""
    return f"{count:,} {'round' if count == 1 else 'rounds'} each"


def format_factor(factor: float) -> str:
    """``"1,386x"``, ``"12.4x"``, ``"0.998x"``: how many times; two digits at least, no more than needed."""
    if not math.isfinite(factor):
        return "-"
    return f"{factor:,.0f}x" if factor >= 1000 else f"{_three_digits(factor)}x"


def format_duration(seconds: float) -> str:
    """``"0:07"``, ``"12:45"``, ``"3:02:10"``: hours, minutes and seconds."""
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_metric(value: float | None) -> str:
    """A metric or loss in four digits (``"0.8020"``, ``"60.91"``, ``"1,204"``); ``"-"`` where there is none."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def _three_digits(value: float) -> str:
    """``value`` below 1,000 in three significant digits, never in scientific notation."""
    for limit, decimals in ((9.995, 2), (99.95, 1)):
        if value < limit:
            return f"{value:.{decimals}f}"
    return f"{value:.0f}"
