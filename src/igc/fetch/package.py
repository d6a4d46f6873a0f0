"""What can be fetched: a distribution on a package index, pinned to the byte, and the files wanted from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Package:
    """One file of one release, and which of its members to keep.

    Attributes:
        name: the distribution's name, as the index spells it.
        version: the exact release.
        filename: the wheel or source archive.
        kind: ``"wheel"`` or ``"sdist"``.
        sha256: lower-case hexadecimal digest of the file.
        size: length of the file in bytes; progress is shown against it.
        members: glob patterns of the members to keep. ``a!b`` names the members ``b`` of the archives ``a`` found
            inside the file. Members are kept flat, by their last path component, so that none can land elsewhere.
    """

    name: str
    version: str
    filename: str
    kind: Literal["wheel", "sdist"]
    sha256: str
    size: int
    members: tuple[str, ...]

    @property
    def requirement(self) -> str:
        """What pip is asked for: ``name==version``."""
        return f"{self.name}=={self.version}"
