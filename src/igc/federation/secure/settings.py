"""What both sides of secure aggregation must have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from igc.errors import DataError
from igc.federation.engine import RefusedError

MODULUS_BITS: Final = 32  # masked numbers travel as uint32
LEAST_BITS: Final = 8
LOSS_MOST: Final = 64.0  # a larger loss counts as this
STAGES: Final = ("keys", "shares", "masked", "unmask")


class SecureError(RefusedError):
    """A client refuses, because what it is asked for would give an upload away, or makes no sense."""


@dataclass(frozen=True)
class SecureSettings:
    """Settings of the protocol.

    Attributes:
        cohort: W, the most clients of a round; so many uploads add up without wrapping around.
        threshold: share of a secret's holders who must be there at the end; more than half, so that no two sets of them
            can be told different stories about who dropped out.
        shares: who holds shares of a client's secrets, itself included: so many clients, its neighbours on a ring; None:
            everybody in its group.
        bits: of the quantiser; None: as many as the modulus has room for.
        max_weight: the largest weight of a client; larger ones count as this.
        groups: how many sums a round has; its clients are dealt to them evenly.
    """

    cohort: int
    threshold: float = 2 / 3
    shares: int | None = None
    bits: int | None = None
    max_weight: int = 1
    groups: int = 1

    def __post_init__(self) -> None:
        room = self.room
        if room < LEAST_BITS:
            raise DataError(f"secure aggregation of {self.cohort:,} clients leaves {room} bits a number; ask fewer")
        if self.bits is not None and self.bits > room:
            raise DataError(
                f"secure.bits = {self.bits}: sums of {self.cohort} such numbers do not fit {MODULUS_BITS} bits; set it to"
                f" at most {room}, or leave it out"
            )
        if self.cohort * self.max_weight >= 2**MODULUS_BITS:
            raise DataError(
                f"secure.max_weight = {self.max_weight:,}: weights of {self.cohort} clients do not fit"
                f" {MODULUS_BITS} bits; set it to at most {(2**MODULUS_BITS - 1) // self.cohort:,}"
            )

    @property
    def room(self) -> int:
        """The most bits of a number of which ``cohort`` can be added."""
        return MODULUS_BITS - (self.cohort - 1).bit_length()

    @property
    def levels(self) -> int:
        """The largest quantised number; the least is 0."""
        return (1 << (self.bits or self.room)) - 1

    def needed(self, holders: int) -> int:
        """How many of a secret's holders bring it back: more than half, and two at least."""
        return max(2, holders // 2 + 1, math.ceil(self.threshold * holders - 1e-9))

    def quorum(self, holders: int) -> int:
        """How many of a client's neighbours, itself included, a sum must have: `needed` of those of a full round.

        Args:
            holders: how many neighbours it was told of, itself included; a server may tell of too few.
        """
        full = self.cohort // self.groups
        return max(self.needed(holders), self.needed(full if self.shares is None else min(full, self.shares)))

    def neighbours(self, position: int, count: int) -> list[int]:
        """Positions of those who share a mask with a client, and hold shares of its secrets: nearest on a ring.

        Args:
            position: of the client.
            count: of clients in its group.
        """
        if self.shares is None or self.shares >= count:
            return [other for other in range(count) if other != position]
        half = self.shares // 2
        return sorted((position + step) % count for step in range(-half, half + 1) if step)

    @property
    def shared(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "cohort": self.cohort,
            "threshold": self.threshold,
            "shares": self.shares,
            "levels": self.levels,
            "max_weight": self.max_weight,
            "groups": self.groups,
        }
