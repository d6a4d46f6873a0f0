"""QSGD: a stochastic quantiser whose levels are spaced by the Euclidean norm.

Alistarh, Grubic, Li, Tomioka and Vojnovic, "QSGD: communication-efficient SGD via gradient quantization and encoding",
NeurIPS 2017, section 3.1; in buckets, as in its experiments.

The level of x is |x| s / ||v|| rounded at random, v being the bucket. The variance is at most min(n / s^2, sqrt(n) / s)
||v||^2 for buckets of n = 512 (lemma 3.1). The paper writes levels, most of which are zero at few bits, by an Elias code;
here they take a fixed number of bits, so that a message's length depends on its shape alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from igc.codecs.base import Floats
from igc.codecs.uniform import Uniform


@dataclass(frozen=True)
class Qsgd(Uniform):
    """Levels of the bucket's Euclidean norm; a norm beyond binary32 is sent as infinity, which the receiver refuses."""

    @override
    def scales(self, rows: Floats) -> npt.NDArray[np.floating]:
        norms: npt.NDArray[np.float64] = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1))
        return norms
