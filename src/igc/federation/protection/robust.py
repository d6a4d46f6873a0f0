"""Robust rules in place of the mean: some uploads may be anything, and the result stays near the others.

Trimmed mean and median: Yin et al., "Byzantine-robust distributed learning", ICML 2018. Krum and Multi-Krum: Blanchard et
al., "Machine learning with adversaries", NeurIPS 2017. They act on the d numbers of uploads, of which the server then holds
all W at once. Weights are a client's own claim: each upload counts the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from igc.federation.aggregate import SkippedRoundError
from igc.methods import Means


class Rule(ABC):
    """What takes the place of the mean of n uploads."""

    @property
    @abstractmethod
    def least(self) -> int:
        """The fewest uploads that it works on."""

    @abstractmethod
    def __call__(self, uploads: Tensor) -> Tensor:
        """Of uploads (n, d), n being at least `least`, the vector (d,) that stands for all of them."""


@dataclass(frozen=True)
class TrimmedMean(Rule):
    """Coordinate by coordinate, the mean without the f smallest and the f largest numbers.

    Attributes:
        byzantine: f, how many uploads may be anything.
    """

    byzantine: int

    @property
    @override
    def least(self) -> int:
        return 2 * self.byzantine + 1

    @override
    def __call__(self, uploads: Tensor) -> Tensor:
        return _middle(uploads, self.byzantine)


@dataclass(frozen=True)
class Median(Rule):
    """Coordinate by coordinate, the median; of an even number of uploads, the mean of the middle two."""

    @property
    @override
    def least(self) -> int:
        return 1

    @override
    def __call__(self, uploads: Tensor) -> Tensor:
        return _middle(uploads, (len(uploads) - 1) // 2)


@dataclass(frozen=True)
class Krum(Rule):
    """The mean of the uploads with the nearest neighbours; Krum for one of them, Multi-Krum for more.

    An upload's score is the sum of its squared distances to the n - f - 2 others that are nearest to it.

    Attributes:
        byzantine: f, how many uploads may be anything.
        keep: m, of how many the mean is taken, never more than n - f.
    """

    byzantine: int
    keep: int = 1

    @property
    @override
    def least(self) -> int:
        return 2 * self.byzantine + 3

    @override
    def __call__(self, uploads: Tensor) -> Tensor:
        count = len(uploads)
        wide = uploads.double()
        # By differences: by products, a huge upload would drown the distances between the others.
        distances = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist").square()
        distances.fill_diagonal_(torch.inf)
        scores = distances.sort(dim=1).values[:, : count - self.byzantine - 2].sum(dim=1)
        best = scores.argsort(stable=True)[: min(self.keep, count - self.byzantine)]
        return wide[best].mean(dim=0).to(uploads.dtype)


class RobustMean:
    """Gathers all uploads of a round and, at its end, applies a rule to each group.

    A group counts by its share of the uploads, as in `igc.federation.aggregate.WeightedMean`.

    Args:
        rule: what takes the place of the mean.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._vectors: dict[int, list[Tensor]] = {}
        self._losses: list[float] = []
        self._clients: list[str] = []

    def add(self, client: str, group: int, vector: Tensor, weight: float, loss: float) -> None:  # noqa: ARG002
        """Keep one upload; ``vector`` is (d,) float32, ``weight`` is not believed."""
        self._vectors.setdefault(group, []).append(vector)
        self._losses.append(loss)
        self._clients.append(client)

    def means(self) -> Means | None:
        """What stands for all that was added, None if nothing was; the loss is the median of losses.

        Raises:
            SkippedRoundError: a group has fewer uploads than the rule needs.
        """
        if not self._clients:
            return None
        groups = {}
        for group, vectors in sorted(self._vectors.items()):
            if len(vectors) < self._rule.least:
                raise SkippedRoundError(
                    f"{len(vectors)} usable uploads, and {type(self._rule).__name__} needs {self._rule.least}"
                    f"{f' in each subspace (number {group} has so few)' if len(self._vectors) > 1 else ''}"
                )
            share = len(vectors) / len(self._clients)
            groups[group] = self._rule(torch.stack(vectors)) * share
        loss = float(torch.tensor(self._losses, dtype=torch.float64).quantile(0.5))
        return Means(groups, loss, tuple(self._clients))


def _middle(uploads: Tensor, cut: int) -> Tensor:
    """The mean of each column without its ``cut`` smallest and largest numbers."""
    ordered = uploads.sort(dim=0).values[cut : len(uploads) - cut]
    return ordered.double().mean(dim=0).to(uploads.dtype)
