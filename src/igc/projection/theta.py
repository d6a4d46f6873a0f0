"""theta = theta_0 + sum_t A_t sigma_t, in place in a model's own tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from igc.projection.base import Projection
from igc.projection.tensors import add_expanded_, expand_onto_


class Term(NamedTuple):
    """One summand A sigma of the displacement theta - theta_0."""

    projection: Projection
    sigma: Tensor

    def same_as(self, other: Term) -> bool:
        """Whether both are the same summand, value for value."""
        if self.projection != other.projection:
            return False
        return self.sigma is other.sigma or torch.equal(self.sigma, other.sigma)


class Theta:
    """The trainable tensors of one model, which it moves to theta_0 + sum_t A_t sigma_t.

    The displacement is summed from zero in float32, term by term, and added to theta_0 last: parameters in bfloat16 are
    rounded once, whatever the number of terms, and a displacement sent whole (`Identity`) gives the same bits as its terms.
    Every position is computed from theta_0, never from the position before, so that it depends on nothing but the terms.

    Memory beside the model: theta_0, and one displacement (float32) once there are settled terms.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)
        self._base = [tensor.detach().clone() for tensor in tensors]
        self._device = self._tensors[0].device
        self._D = sum(tensor.numel() for tensor in tensors)
        self._at: list[Term] = []
        self._settled: list[Term] = []
        self._settled_sum: Tensor | None = None

    def move_(self, current: Sequence[Term], settled: Sequence[Term] = ()) -> None:
        """Move to theta_0 + the sum of ``settled`` and ``current``, in this order.

        Args:
            current: terms that change from round to round.
            settled: terms that come first and seldom change; their sum is kept for the next call.
        """
        # Copies: whoever changes sigma in place and moves again must not meet its new value as the old one.
        target = [Term(t.projection, t.sigma.to(self._device, copy=True)) for t in (*settled, *current)]
        if same_terms(target, self._at):
            return
        self._at = []  # unknown while the tensors are being written
        moving = target[len(settled) :]
        with torch.no_grad():
            if len(target) == 1:
                expand_onto_(target[0].projection, self._tensors, self._base, target[0].sigma)
            else:
                for tensor, base in zip(self._tensors, self._base, strict=True):
                    tensor.copy_(base)
                if target:
                    self._add_displacement_(self._displacement(target[: len(settled)], moving))
        self._at = target

    def _displacement(self, settled: list[Term], moving: list[Term]) -> Tensor:
        kept, total = len(self._settled), self._settled_sum
        if total is None or not same_terms(settled[:kept], self._settled):
            kept, total = 0, None
        if len(settled) > kept:  # the sum goes on where it was: terms settle one by one, and there may be thousands
            self._settled, self._settled_sum = [], None  # its tensor is being written
            total = displacement(settled[kept:], self._D, self._device, total)
        self._settled, self._settled_sum = settled, total
        start = None if self._settled_sum is None else self._settled_sum.clone()
        return displacement(moving, self._D, self._device, start)

    def _add_displacement_(self, total: Tensor) -> None:
        offset = 0
        for tensor in self._tensors:
            tensor.add_(total[offset : offset + tensor.numel()].view(tensor.shape))
            offset += tensor.numel()


def displacement(
    terms: Sequence[Term], D: int, device: torch.device | str = "cpu", start: Tensor | None = None
) -> Tensor:
    """``start + sum_t A_t sigma_t``, in order, float32 (D,); ``start`` (zero by default) is overwritten."""
    total = torch.zeros(D, dtype=torch.float32, device=device) if start is None else start
    for term in terms:
        add_expanded_(term.projection, [total], term.sigma.to(total.device))
    return total


def same_terms(left: Sequence[Term], right: Sequence[Term]) -> bool:
    """Whether two sums have the same summands in the same order, value for value."""
    return len(left) == len(right) and all(a.same_as(b) for a, b in zip(left, right, strict=True))
