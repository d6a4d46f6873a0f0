"""Colours and marks of entries: the same in every plot, table and legend of a report.

Colours are drawn after those of Okabe and Ito, darker on white and lighter on black, so that each stands out by at least
3:1 and people with any kind of colour vision tell them apart; marks repeat after another number than colours do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from igc.experiments.report.read import Entry

# light, dark
_HUES: Final = (
    ("#0072B2", "#56B4E9"),
    ("#C24E00", "#FF8A4A"),
    ("#00795A", "#2FC79A"),
    ("#A8457F", "#E79AC6"),
    ("#8A6A00", "#EBC33C"),
    ("#4B4FC4", "#A3A8FF"),
    ("#5B6670", "#AEB9C2"),
)
_MARKS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
UNCOMPRESSED: Final = ("fedsgd", "fedavg")

# What a figure is drawn in: (CSS variable, light). A page puts the variable in the place of the colour.
INK: Final = ("ink", "#1B1F24")
QUIET: Final = ("quiet", "#5A636C")
FAINT: Final = ("faint", "#DDE1E5")
PAPER: Final = ("paper", "#FEFFFE")
FRONTIER: Final = ("frontier", "#8C969F")
FIXED: Final = (INK, QUIET, FAINT, PAPER, FRONTIER)


@dataclass(frozen=True)
class Style:
    """How an entry looks.

    Attributes:
        variable: the CSS variable of its colour.
        light: the colour on white.
        dark: the colour on black.
        mark: as matplotlib calls it.
    """

    variable: str
    light: str
    dark: str
    mark: str


STYLES: Final = tuple(Style(f"hue-{n}", light, dark, "") for n, (light, dark) in enumerate(_HUES))


def styles(entries: Sequence[Entry]) -> dict[str, Style]:
    """Entry name -> its style; a name has one style, whatever it was allowed."""
    names = sorted({entry.name for entry in entries}, key=lambda name: (len(name.split("+")[0]), name))
    found = {}
    for number, name in enumerate(names):
        hue = STYLES[number % len(STYLES)]
        found[name] = Style(hue.variable, hue.light, hue.dark, _MARKS[number % len(_MARKS)])
    return found


_SHAPES: Final = {
    "o": "M8 3.2a4.8 4.8 0 1 0 .01 0z",
    "s": "M3.8 3.8h8.4v8.4H3.8z",
    "^": "M8 2.6l5.4 10H2.6z",
    "v": "M8 13.4l5.4-10H2.6z",
    "D": "M8 2l6 6-6 6-6-6z",
    "P": "M6 2.6h4V6h3.4v4H10v3.4H6V10H2.6V6H6z",
    "X": "M5.2 2.4L8 5.2l2.8-2.8 2.8 2.8L10.8 8l2.8 2.8-2.8 2.8L8 10.8l-2.8 2.8-2.8-2.8L5.2 8 2.4 5.2z",
    "<": "M2.6 8l10-5.4v10.8z",
    ">": "M13.4 8l-10-5.4v10.8z",
}


def shape(style: Style) -> str:
    """The mark as an SVG path in a square of 16."""
    return _SHAPES[style.mark]
