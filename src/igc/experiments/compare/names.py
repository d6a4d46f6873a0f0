"""How entrants are named on the command line: ``NAME+KEY=VALUE+KEY=VALUE,NAME``, where values are TOML."""

from __future__ import annotations

import re
from typing import Final

_KEY: Final = r"[\w-]+(?:\.[\w-]+)*"
_PLUS: Final = re.compile(rf"\+(?=\s*{_KEY}\s*=)")
_COMMA: Final = re.compile(",")
_BRACKETS: Final = {"[": "]", "{": "}"}


def names(text: str) -> list[str]:
    """The names of a list by commas; those within quotes, brackets and braces are a value's own."""
    return [name for part in _split(_COMMA, text) if (name := part.strip())]


def parts(name: str) -> list[str]:
    """The entrant of a name, then its settings; a plus that no ``KEY=`` follows is a value's own."""
    return [part.strip() for part in _split(_PLUS, name)]


def _split(separator: re.Pattern[str], text: str) -> list[str]:
    bare, found, start = _bare(text), [], 0
    for match in separator.finditer(bare):
        found.append(text[start : match.start()])
        start = match.end()
    return [*found, text[start:]]


def _bare(text: str) -> str:
    """The text, as long as it was, blank where a quote, a bracket or a brace is open."""
    kept, closing, escaped = [], [""], False
    for char in text:
        inside = len(closing) > 1
        quote = closing[-1] if closing[-1] in ("'", '"') else ""
        if quote:
            if char == quote and not escaped:
                closing.pop()
            escaped = quote == '"' and char == "\\" and not escaped
        elif char == closing[-1]:
            closing.pop()
        elif char in ("'", '"') or char in _BRACKETS:
            closing.append(_BRACKETS.get(char, char))
            inside = True
        kept.append(" " if inside else char)
    return "".join(kept)
