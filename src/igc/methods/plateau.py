"""When a subspace is exhausted: the training loss that the server sees has stopped falling.

The loss of a round is the weighted mean of its clients' losses, which uploads carry anyway; it is noisy, so that means over
``patience`` rounds are compared, the latest against those just before. As with `torch.optim.lr_scheduler.ReduceLROnPlateau`
the threshold is relative. Nothing but the losses decides, so that a resumed run changes where a straight one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any


@dataclass(frozen=True)
class Plateau:
    """The rule.

    Attributes:
        patience: rounds of which each of the two means is taken.
        threshold: the least fall, as a share of the earlier mean, that is worth staying for.
    """

    patience: int
    threshold: float

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"patience": self.patience, "threshold": self.threshold}

    @property
    def window(self) -> int:
        """How many of the newest losses decide."""
        return 2 * self.patience

    def reached(self, losses: Sequence[float]) -> bool:
        """Whether these losses of one subspace, the newest last, have come to a plateau."""
        if len(losses) < self.window:
            return False
        recent = losses[-self.window :]
        before, after = fmean(recent[: self.patience]), fmean(recent[self.patience :])
        return before - after < self.threshold * abs(before)
