"""theta moved in place, with no copy of theta_0: for devices whose memory holds the model once.

`Theta` computes each position from theta_0, exactly; it costs a second copy of the model. Here each move adds
A (sigma_new - sigma_old) to where the model is. Each move rounds each parameter once, so that after m moves a parameter is
off theta_0 + A sigma by at most about m / 2 units in its last place, and by about sqrt(m) of them as a rule. Reading the
base weights again, from disk, sets that to what `Theta` gives: `resync_` does, and `move_` does by itself every so many
moves where it knows how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from igc.errors import ProjectionError
from igc.projection.tensors import add_expanded_
from igc.projection.theta import Term, same_terms

Reload = Callable[[], Iterable[Tensor]]


class InPlaceTheta:
    """The trainable tensors of one model, moved in place; see `igc.projection.theta.Theta`.

    Args:
        tensors: at theta_0, in the order of the space.
        reload: gives theta_0's tensors again, one after the other, from wherever they are kept.
        every: moves after which to re-synchronise, where ``reload`` is given.
    """

    def __init__(self, tensors: Sequence[Tensor], reload: Reload | None = None, every: int = 100) -> None:
        if every < 1:
            raise ProjectionError(f"every = {every}; re-synchronise after at least one move")
        self._tensors = list(tensors)
        self._reload = reload
        self._every = every
        self._at: list[Term] = []
        self.moves = 0  # since the last re-synchronisation

    def move_(self, current: Sequence[Term], settled: Sequence[Term] = ()) -> None:
        """Move to theta_0 + the sum of ``settled`` and ``current``."""
        device = self._tensors[0].device
        target = [Term(t.projection, t.sigma.to(device, copy=True)) for t in (*settled, *current)]
        if same_terms(target, self._at):
            return
        if self._reload is not None and self.moves >= self._every:
            self._at = target
            self.resync_()
            return
        for change in _changes(self._at, target):
            add_expanded_(change.projection, self._tensors, change.sigma)
        self._at = target
        self.moves += 1

    def resync_(self) -> None:
        """Read theta_0 again and add the terms to it: the drift is gone.

        Raises:
            ProjectionError: nobody said where theta_0 is, or it has other tensors.
        """
        if self._reload is None:
            raise ProjectionError("cannot re-synchronise: give `reload`, which reads the base weights again")
        with torch.no_grad():
            for tensor, base in zip(self._tensors, self._reload(), strict=True):
                if tensor.shape != base.shape:
                    raise ProjectionError(
                        f"the base has a tensor of shape {tuple(base.shape)}, due was {tuple(tensor.shape)}"
                    )
                tensor.copy_(base)
        for term in self._at:
            add_expanded_(term.projection, self._tensors, term.sigma)
        self.moves = 0


def _changes(old: Sequence[Term], new: Sequence[Term]) -> list[Term]:
    """The terms whose sum is ``new - old``, one for each matrix that has changed."""
    left = list(old)
    changes: list[Term] = []
    for term in new:
        before = next((t for t in left if t.projection == term.projection), None)
        if before is not None:
            left = [t for t in left if t is not before]
        change = term.sigma if before is None else term.sigma - before.sigma
        if bool(change.any()):
            changes.append(Term(term.projection, change))
    return [*changes, *(Term(t.projection, -t.sigma) for t in left)]
