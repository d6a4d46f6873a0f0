"""What noise has bought: epsilon at a given delta, by Google's `dp-accounting`, and a budget that training keeps to.

Two clients' data are told apart by what a run releases, with central noise the server's states, with local noise each
upload. The unit of privacy is a client with all its examples. Three cases:

- **public cohorts** (the default): who takes part in a round follows from the recipe's seed, which every client knows, so
  sampling hides nobody, and no amplification is claimed. A client that took part k times was k times in a Gaussian
  mechanism; k of them with noise z are, exactly, one with z / sqrt(k) (Dong, Roth, Su, "Gaussian differential privacy",
  2022). Epsilon is that of the client that took part most often. Neighbours: a client's uploads, or zeros in their place.
- **secret cohorts**: drawn anew each round, uniformly, from the operating system's secret. Amplified as sampling without
  replacement is (Wang, Balle, Kasiviswanathan, "Subsampled Renyi differential privacy", 2019). Neighbours: one client
  replaced by another, which doubles the sensitivity.
- **local**: each upload by itself. Neighbours: any data of the same client in place of its own; twice the bound apart.
"""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from igc.errors import RunError

_ROUNDS: Final = 2**32  # that a message can be of


@dataclass(frozen=True)
class Accountant:
    """From how often and with how much noise to epsilon.

    Attributes:
        mode: where noise is added: on the "central" sum, or by each client ("local").
        noise_multiplier: z, the noise's standard deviation over the norm bound.
        delta: of (epsilon, delta).
        cohort: W; with secret cohorts only.
        population: clients; with secret cohorts only.
        secret: whether nobody outside the server knows who takes part.
    """

    mode: Literal["central", "local"]
    noise_multiplier: float
    delta: float
    cohort: int = 1
    population: int = 1
    secret: bool = False

    def __post_init__(self) -> None:
        if importlib.util.find_spec("dp_accounting") is None:
            raise RunError(
                "[privacy] needs the package dp-accounting: pip install 'intrinsic-gradient-compression[privacy]'"
            )

    @property
    def amplified(self) -> bool:
        """Whether sampling counts."""
        return self.secret and self.mode == "central"

    def epsilon(self, rounds: int, participations: int) -> float:
        """Epsilon after so many rounds, in which one client took part so often at most."""
        if self.amplified:
            return self._sampled(rounds)
        if participations == 0:
            return 0.0
        from dp_accounting import get_epsilon_gaussian  # noqa: PLC0415 (seconds)

        sensitivity = 2.0 if self.mode == "local" else 1.0
        return float(get_epsilon_gaussian(self.noise_multiplier / sensitivity / math.sqrt(participations), self.delta))

    def most(self, budget: float) -> int:
        """How often a client may take part within a budget; without amplification, where only that counts."""
        assert not self.amplified
        least, beyond = 0, 1
        while beyond < _ROUNDS and self.epsilon(beyond, beyond) <= budget:
            least, beyond = beyond, 2 * beyond
        while beyond - least > 1:
            middle = (least + beyond) // 2
            least, beyond = (middle, beyond) if self.epsilon(middle, middle) <= budget else (least, middle)
        return least

    def _sampled(self, rounds: int) -> float:
        if rounds == 0:
            return 0.0
        from dp_accounting import (  # noqa: PLC0415 (seconds)
            GaussianDpEvent,
            NeighboringRelation,
            SampledWithoutReplacementDpEvent,
        )
        from dp_accounting.rdp import RdpAccountant  # noqa: PLC0415

        accountant = RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
        mechanism = GaussianDpEvent(self.noise_multiplier / 2)  # replacing one moves the sum by twice the bound
        accountant.compose(SampledWithoutReplacementDpEvent(self.population, self.cohort, mechanism), rounds)
        return float(accountant.get_epsilon(self.delta))


@dataclass
class Spending:
    """What a run has spent, round by round, and what is left of its budget.

    Attributes:
        accountant: knows the price.
        budget: the largest epsilon; None: no limit.
        replayed: whether a round that is run twice, after a kill, releases the same bits again; if not, it counts twice.
    """

    accountant: Accountant
    budget: float | None = None
    replayed: bool = False
    _rounds: int = 0
    _seen: set[int] = field(default_factory=set)
    _participations: Counter[str] = field(default_factory=Counter)

    def note(self, round: int, clients: Iterable[str]) -> None:
        """A round begins: from here on it counts, whatever becomes of it."""
        if self.replayed and round in self._seen:
            return
        self._seen.add(round)
        self._rounds += 1
        self._participations.update(clients)

    @property
    def epsilon(self) -> float:
        """What all rounds that began may have told."""
        return self.accountant.epsilon(self._rounds, max(self._participations.values(), default=0))

    def after(self, round: int, clients: Iterable[str]) -> float:
        """Epsilon if this round began, too."""
        if self.replayed and round in self._seen:
            return self.epsilon
        most = max(self._participations.values(), default=0)
        theirs = max((self._participations[client] for client in clients), default=0)
        return self.accountant.epsilon(self._rounds + 1, max(most, theirs + 1))

    def allows(self, round: int, clients: Iterable[str]) -> bool:
        """Whether the budget covers this round, too."""
        return self.budget is None or self.after(round, clients) <= self.budget
