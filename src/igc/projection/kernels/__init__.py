"""The transform behind the Hadamard families: one contract, chosen at run time.

The contract is `reference.fwht`: the unnormalised Walsh-Hadamard transform of the last axis. A native kernel enters here,
is held to the reference by the tests, and no caller changes.
"""

from igc.projection.kernels.reference import fwht

__all__ = ["fwht"]
