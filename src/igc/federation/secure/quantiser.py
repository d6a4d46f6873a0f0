"""Real numbers as whole ones that add up without wrapping around: one range and one step for all clients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Quantiser:
    """Even levels from -reach to reach.

    Attributes:
        reach: numbers beyond are cut to it.
        levels: the largest whole number; the least is 0.
    """

    reach: float
    levels: int

    @property
    def step(self) -> float:
        """How far two levels are apart."""
        return 2 * self.reach / self.levels

    def encode(self, values: NDArray[np.float64]) -> NDArray[np.uint32]:
        """The nearest levels; each is off by half a step at most."""
        inside = np.clip(values, -self.reach, self.reach)
        return np.rint((inside + self.reach) / self.step).clip(0, self.levels).astype(np.uint32)

    def decode_sum(self, total: NDArray[np.uint32], count: int) -> NDArray[np.float64]:
        """The sum of ``count`` vectors, from the sum of their levels."""
        return total.astype(np.float64) * self.step - count * self.reach
