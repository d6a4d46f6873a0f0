"""Aggregation: the streaming weighted mean of uploads, by group."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from igc.methods import Means


class WeightedMean:
    """Adds uploads one by one, so that the server never holds W of them.

    Sums are kept in float64: the order in which uploads come then seldom touches the float32 result. Each group's sum is
    divided by the weight of the whole round, as the K-subspace method asks (METHOD.md, section 2).
    """

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}
        self._loss = 0.0
        self._weight = 0.0
        self._clients: list[str] = []

    def add(self, client: str, group: int, vector: Tensor, weight: float, loss: float) -> None:
        """Fold one upload in; ``vector`` is (d,) float32, ``weight`` positive."""
        if group not in self._sums:
            self._sums[group] = torch.zeros(vector.shape, dtype=torch.float64)
        self._sums[group].add_(vector, alpha=weight)
        self._loss += weight * loss
        self._weight += weight
        self._clients.append(client)

    def means(self) -> Means | None:
        """The means of all that was added; None if nothing was."""
        if not self._clients:
            return None
        groups = {k: (total / self._weight).to(torch.float32) for k, total in sorted(self._sums.items())}
        return Means(groups, self._loss / self._weight, tuple(self._clients))


def weighted_mean(uploads: Iterable[tuple[str, int, Tensor, float, float]]) -> Means | None:
    """`WeightedMean` of (client, group, vector, weight, loss) tuples."""
    mean = WeightedMean()
    for upload in uploads:
        mean.add(*upload)
    return mean.means()
