"""FedSGD (McMahan et al., AISTATS 2017), uncompressed: the yardstick.

The static method with A = I: clients download the displacement theta - theta_0 (D numbers), upload their gradient (D
numbers), and the server steps on the weighted mean.
"""

from __future__ import annotations

from igc.methods.static import Static
from igc.optim import ServerOptimizer
from igc.projection import Identity


def fedsgd(D: int, optimizer: ServerOptimizer) -> Static:
    """FedSGD for a model of D parameters."""
    return Static(Identity(D=D, d=D, seed=0), optimizer, name="fedsgd")
