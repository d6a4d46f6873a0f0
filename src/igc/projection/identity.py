"""The identity, d = D: uncompressed methods are the compressed ones with this projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from igc.errors import ProjectionError
from igc.projection.base import Projection


@dataclass(frozen=True)
class Identity(Projection):
    """A = I, so that sigma is the displacement theta - theta_0 itself."""

    family: ClassVar[str] = "identity"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d != self.D:
            raise ProjectionError(
                f"the identity keeps all D = {self.D:,} dimensions; d = {self.d:,} is another projection"
            )

    @property
    @override
    def granule(self) -> int:
        return 1

    def _project_(self, g: Tensor, start: int, out: Tensor) -> None:
        out[start : start + g.numel()].add_(g)

    def _expand(self, x: Tensor, start: int, stop: int) -> Tensor:
        return x[start:stop].clone()
