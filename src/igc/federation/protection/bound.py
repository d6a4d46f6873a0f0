"""Norm bounding: no client moves the mean by more than its share of a bound.

Sun et al., "Can you really backdoor federated learning?", 2019, section 4.2. The client clips what it sends; the server,
which cannot know that it did, holds every upload to the same bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from torch import Tensor

from igc.messages import MessageError

SLACK: Final = 1e-6  # of rounding, where a client clipped in float32


class BoundError(MessageError):
    """An upload is longer than the bound allows."""


@dataclass(frozen=True)
class NormBound:
    """The largest L2 norm of an upload's vector.

    Attributes:
        limit: the bound, in the units of the vector's numbers.
        beyond: what the server does with a longer one: "clip" it to the bound, or "reject" it.
    """

    limit: float
    beyond: Literal["clip", "reject"] = "clip"

    def clip(self, vector: Tensor) -> Tensor:
        """The vector, scaled down to the bound if it is longer."""
        length = norm(vector)
        return vector if length <= self.limit else (vector.double() * (self.limit / length)).to(vector.dtype)

    def admit(self, vector: Tensor) -> tuple[Tensor, bool]:
        """What the server takes of an upload, and whether it had to be cut.

        Raises:
            BoundError: it is longer than the bound, and such uploads are rejected.
        """
        length = norm(vector)
        if length <= self.limit * (1 + SLACK):
            return vector, False
        if self.beyond == "reject":
            raise BoundError(f"the vector's norm is {length:.4g}, above aggregation.norm_bound = {self.limit:g}")
        return self.clip(vector), True


def norm(vector: Tensor) -> float:
    """The L2 norm, in float64: numbers near float32's largest have a square there."""
    return float(vector.double().norm())
