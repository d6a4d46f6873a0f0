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
from igc.federation.protection.answered import Answered
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
        bound: on the norm of uploads, and on their weights.
        rule: in place of the weighted mean.
        noise: of differential privacy, its std that of the sum of uploads ("central") or of one upload ("local").
        where: who adds it.
        answers: with local noise: how many a client gives at most, whatever the server asks; None: any number.
        secure: how uploads are summed so that the server sees the sum alone.
    """

    bound: NormBound | None = None
    rule: Rule | None = None
    noise: GaussianNoise | None = None
    where: Literal["central", "local"] = "central"
    answers: int | None = None
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
            if self.bound.max_weight is not None:
                found["max_weight"] = self.bound.max_weight
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

    def on_answer(self, memory: Any, round: int) -> Answered | None:
        """A client's own account with one more answer, which it is about to give; None: it adds no noise, and keeps none.

        Args:
            memory: what it remembers; None before its first round.
            round: that it is asked for.

        Raises:
            AnsweredError: it gives no answer.
        """
        # A memory of a version that kept no account is the method's own.
        account = memory if isinstance(memory, Answered) else Answered(memory)
        return account.after(round, self.answers) if self.local else None

    def on_client(self, tensors: Mapping[str, Tensor], round: int, client: str) -> dict[str, Tensor]:
        """What a client sends in place of its upload: clipped, then with noise if that is the client's part.

        With local noise, loss and weight, which have none, are withheld: 0 and 1.
        """
        found = dict(tensors)
        if self.bound is not None:
            found["sketch"] = self.bound.clip(found["sketch"])
            found["weight"] = torch.tensor(self.bound.weight(int(found["weight"])))
        if self.local and self.noise is not None:
            found["sketch"] = self.noise.add(found["sketch"], round, client)
            found["weight"], found["loss"] = torch.tensor(1), torch.tensor(0.0)
        return found

    def admit(self, vector: Tensor, weight: int) -> tuple[Tensor, int, bool]:
        """What the server takes of an upload, vector and weight, and whether it had to cut it.

        Noise it cannot tell from the rest.

        Raises:
            BoundError: the upload is too long or too heavy to be used.
        """
        return (vector, weight, False) if self.bound is None or self.local else self.bound.admit(vector, weight)

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
