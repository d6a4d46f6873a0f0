"""FetchSGD: clients send Count Sketches; momentum and error feedback live in the sketch; a round changes k coordinates.

Rothchild et al., "FetchSGD: communication-efficient federated learning with sketching", ICML 2020, algorithm 1, as its
published code has it.

    client -> server    S(g), S a Count Sketch of r rows and c columns      r c numbers
    server              momentum and error feedback over S(g) (`igc.methods.server_error`);
                        s = the k largest of the error's estimates U(E), taken out of all buckets that s falls into
    server -> client    the coordinates that changed                        k a round

Algorithm 1 takes S(s) from E, and has eta in E. The published code does neither: taking S(s) away "should work but doesn't
(model diverges)", says a comment there. Outside of E, eta gives the same for a constant learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from igc.methods.server_error import ServerError
from igc.methods.top_k import largest
from igc.projection import CountSketch


@dataclass(frozen=True)
class FetchSgd(ServerError[CountSketch]):
    """Sketched gradients; ``projection`` is the Count Sketch."""

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {"name": "fetchsgd"}

    @override
    def found(self, error: Tensor) -> tuple[Tensor, Tensor]:
        estimate = self.projection.estimate(error)
        places = largest(estimate, self.k)
        return places, estimate[places]

    @override
    def cover(self, places: Tensor, values: Tensor) -> Tensor:
        return self.projection.project(torch.zeros(self.projection.D).index_copy_(0, places, values)) != 0
