"""True top-k: what the k largest coordinates could do if they were found in whole gradients; a bound, not a saving upwards.

Rothchild et al., "FetchSGD: communication-efficient federated learning with sketching", ICML 2020, section 5, and its
published code.

    client -> server    g                                           D numbers
    server              momentum and error feedback over g (`igc.methods.server_error`);
                        s = the k coordinates of the error that are largest in magnitude
    server -> client    the coordinates that changed                k a round
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from igc.methods.server_error import ServerError
from igc.methods.top_k import largest
from igc.projection import Identity, Projection


@dataclass(frozen=True)
class TrueTopK(ServerError[Projection]):
    """The k largest coordinates of the mean gradient; ``projection`` is the identity."""

    @classmethod
    def of(cls, D: int, k: int, momentum: float = 0.0, masking: bool = True) -> TrueTopK:
        """For a model of D parameters."""
        return cls(Identity(D=D, d=D, seed=0), k, momentum, masking)

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {"name": "true-top-k"}

    @override
    def found(self, error: Tensor) -> tuple[Tensor, Tensor]:
        places = largest(error, self.k)
        return places, error[places]

    @override
    def cover(self, places: Tensor, values: Tensor) -> Tensor:
        return torch.zeros(self.projection.d, dtype=torch.bool).index_fill_(0, places, True)
