"""Who takes part in a round: a function of (seed, round) alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from igc.errors import DataError
from igc.projection.philox import Stream, child_seed, permutation, uniform


@dataclass(frozen=True)
class Sampler:
    """Draws W of the clients for each round.

    Attributes:
        clients: all ids, in the order of the dataset.
        per_round: W.
        seed: of the draws.
        sampling: "epoch": without replacement, so that each client takes part once an epoch, in a fresh order each epoch
            (the last round of an epoch may have fewer than W); "uniform": W distinct clients, independently each round.
    """

    clients: Sequence[str]
    per_round: int
    seed: int
    sampling: Literal["epoch", "uniform"] = "epoch"

    def __post_init__(self) -> None:
        if not self.clients:
            raise DataError("there are no clients to sample from")
        if not 1 <= self.per_round <= len(self.clients):
            raise DataError(
                f"{self.per_round} clients a round cannot be drawn from {len(self.clients)}; set"
                f" federation.clients_per_round to at most {len(self.clients)}"
            )

    @property
    def rounds_per_epoch(self) -> int:
        """Rounds in which every client takes part once (on average, where sampling is uniform)."""
        return -(-len(self.clients) // self.per_round)

    def sample(self, round: int) -> list[str]:
        """The clients of a round, in the order of their turns."""
        if self.sampling == "uniform":
            order = permutation(child_seed(self.seed, round), len(self.clients))
            return [self.clients[i] for i in order[: self.per_round]]
        epoch, place = divmod(round, self.rounds_per_epoch)
        order = permutation(child_seed(self.seed, epoch), len(self.clients))
        return [self.clients[i] for i in order[place * self.per_round : (place + 1) * self.per_round]]

    def before(self, round: int) -> int:
        """How many turns there are in the rounds before, those of clients that never answered included."""
        if self.sampling == "uniform":
            return round * self.per_round
        epoch, place = divmod(round, self.rounds_per_epoch)
        return epoch * len(self.clients) + place * self.per_round


@dataclass(frozen=True)
class Dropout:
    """Which sampled clients never answer: each with a probability, by (seed, round, position)."""

    probability: float
    seed: int

    def drops(self, round: int, position: int) -> bool:
        """Whether the client at this place of this round stays silent."""
        return (
            self.probability > 0 and uniform(child_seed(self.seed, round), Stream.DROPOUT, position) < self.probability
        )
