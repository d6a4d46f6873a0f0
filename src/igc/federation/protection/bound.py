"""Norm bounding: no client moves the mean by more than its share of a bound.

Sun et al., "Can you really backdoor federated learning?", 2019, section 4.2. The client clips what it sends; the server,
which cannot know that it did, holds every upload to the same bound. In a mean that is weighted by what clients claim, that
bounds nothing unless weights are bounded, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from torch import Tensor

from igc.messages import MessageError

SLACK: Final = 1e-6  # of rounding, where a client clipped in float32


class BoundError(MessageError):
    """An upload is longer, or claims more weight, than the bound allows."""


@dataclass(frozen=True)
class NormBound:
    """The largest L2 norm of an upload's vector, and the largest weight that it counts with.

    Attributes:
        limit: the bound, in the units of the vector's numbers.
        beyond: what the server does with a longer or heavier one: "clip" it to the bound, or "reject" it.
        max_weight: in predictions; None, no limit, is for means that do not believe weights.
    """

    limit: float
    beyond: Literal["clip", "reject"] = "clip"
    max_weight: int | None = None

    def clip(self, vector: Tensor) -> Tensor:
        """The vector, scaled down to the bound if it is longer."""
        length = norm(vector)
        return vector if length <= self.limit else (vector.double() * (self.limit / length)).to(vector.dtype)

    def weight(self, claimed: int) -> int:
        """The weight, or the largest that there may be."""
        return claimed if self.max_weight is None else min(claimed, self.max_weight)

    def admit(self, vector: Tensor, weight: int) -> tuple[Tensor, int, bool]:
        """What the server takes of an upload, vector and weight, and whether it had to be cut.

        Raises:
            BoundError: it is beyond the bound, and such uploads are rejected.
        """
        length = norm(vector)
        long, heavy = length > self.limit * (1 + SLACK), weight > self.weight(weight)
        if long and self.beyond == "reject":
            raise BoundError(f"the vector's norm is {length:.4g}, above aggregation.norm_bound = {self.limit:g}")
        if heavy and self.beyond == "reject":
            raise BoundError(f"the weight is {weight:,}, above aggregation.max_weight = {self.max_weight:,}")
        return self.clip(vector) if long else vector, self.weight(weight), long or heavy


def norm(vector: Tensor) -> float:
    """The L2 norm, in float64: numbers near float32's largest have a square there."""
    return float(vector.double().norm())
