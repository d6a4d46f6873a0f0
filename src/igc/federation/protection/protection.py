"""All steps around the mean together: what a client does to its upload, and what the server does to match.

Laid out after the postprocessors of apple/pfl-research: each step is a pair, and a method sees means only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor

from igc.federation.aggregate import Aggregation, WeightedMean
from igc.federation.protection.bound import NormBound
from igc.federation.protection.noise import GaussianNoise
from igc.federation.protection.robust import RobustMean, Rule
from igc.federation.secure.settings import SecureSettings
from igc.methods import Means

NOISE_REACH: Final = 6.0  # standard deviations that a number with noise may have under secure aggregation


@dataclass(frozen=True)
class Protection:
    """The steps of a run; by default there are none.

    Attributes:
        bound: on the norm of uploads.
        rule: in place of the weighted mean.
        noise: of differential privacy, its std that of the sum of uploads ("central") or of one upload ("local").
        where: who adds it.
        secure: how uploads are summed so that the server sees the sum alone.
    """

    bound: NormBound | None = None
    rule: Rule | None = None
    noise: GaussianNoise | None = None
    where: Literal["central", "local"] = "central"
    secure: SecureSettings | None = None

    @property
    def local(self) -> bool:
        """Whether clients add noise."""
        return self.noise is not None and self.where == "local"

    @property
    def withholds_loss(self) -> bool:
        """Whether clients' losses, to which no noise is added, stay out of what is released."""
        return self.noise is not None

    @property
    def settings(self) -> dict[str, Any]:
        """What both sides must have in common, JSON-ready; empty where clients do nothing."""
        found: dict[str, Any] = {}
        if self.bound is not None:
            found["norm_bound"] = self.bound.limit
        if self.local and self.noise is not None:
            found["local_noise"] = self.noise.std
        if self.secure is not None:
            found["secure"] = self.secure.shared
        return found

    @property
    def reach(self) -> float:
        """The largest magnitude of a number in what a client sends, where there is a bound."""
        assert self.bound is not None
        return self.bound.limit + (NOISE_REACH * self.noise.std if self.local and self.noise is not None else 0.0)

    def on_client(self, tensors: Mapping[str, Tensor], round: int, client: str) -> dict[str, Tensor]:
        """What a client sends in place of its upload: clipped, then with noise if that is the client's part.

        With local noise, loss and weight, which have none, are withheld: 0 and 1.
        """
        found = dict(tensors)
        if self.bound is not None:
            found["sketch"] = self.bound.clip(found["sketch"])
        if self.local and self.noise is not None:
            found["sketch"] = self.noise.add(found["sketch"], round, client)
            found["weight"], found["loss"] = torch.tensor(1), torch.tensor(0.0)
        return found

    def admit(self, vector: Tensor) -> tuple[Tensor, bool]:
        """What the server takes of an upload's vector, and whether it had to cut it; noise it cannot tell from the rest.

        Raises:
            BoundError: the vector is too long to be used.
        """
        return (vector, False) if self.bound is None or self.local else self.bound.admit(vector)

    def aggregation(self) -> Aggregation:
        """A fresh aggregation for one round."""
        return WeightedMean() if self.rule is None else RobustMean(self.rule)

    def on_means(self, means: Means | None, round: int) -> Means | None:
        """The means as they are released: with noise, if that is the server's part."""
        if means is None or self.noise is None or self.where == "local":
            return means
        # The bound is on one upload of a sum; the mean of n has an n-th of the noise.
        count = len(means.clients)
        noise = GaussianNoise(self.noise.std / count, self.noise.seed)
        groups = {k: noise.add(mean, round, f"server {k}") for k, mean in means.groups.items()}
        return means._replace(groups=groups)


UNPROTECTED: Final = Protection()
