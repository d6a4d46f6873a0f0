"""Integers of 8 or 4 bits that share a scale, the bucket's largest magnitude; stochastic rounding.

QSGD's experiments scale so too (Alistarh et al. 2017), and not by the norm that its lemma is about.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from igc.codecs.base import Floats
from igc.codecs.uniform import Uniform


@dataclass(frozen=True)
class Integers(Uniform):
    """Levels of the bucket's largest magnitude; the error of a number is below a level, 1 / s of that magnitude."""

    @override
    def scales(self, rows: Floats) -> npt.NDArray[np.floating]:
        largest: Floats = np.abs(rows).max(axis=1)
        return largest
