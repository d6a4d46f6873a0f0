"""Gradients projected the moment backward finishes them, and freed: no more than one is ever held."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from igc.errors import ProjectionError
from igc.projection.base import Projection


@contextmanager
def project_as_born(
    projection: Projection, parameters: Sequence[Tensor], watch: Callable[[Tensor], None] | None = None
) -> Iterator[Tensor]:
    """Project every gradient of these parameters during ``backward()``, and free it.

    ::

        with project_as_born(projection, space.parameters(model)) as sketch:
            loss(model, batch).backward()
        # sketch is A^T g; no parameter has a .grad

    Several calls of ``backward()`` add up, in float32, also for parameters in half precision. The numbers are those of
    `project_tensors`, to rounding: gradients are added in the order in which backward finishes them.

    Args:
        projection: A, of shape (D, d).
        parameters: leaf tensors that lie end to end in the flat view, D elements in all, on one device.
        watch: called with each gradient before it is freed, for instance to sum up its norm.

    Yields:
        A^T g, float32 (d,), complete once the block ends.

    Raises:
        ProjectionError: sizes do not fit, or a gradient was left from before.
    """
    if sum(parameter.numel() for parameter in parameters) != projection.D:
        raise ProjectionError(
            f"parameters of {sum(p.numel() for p in parameters):,} elements do not fit the {projection.D:,} rows of the"
            " projection"
        )
    if any(parameter.grad is not None for parameter in parameters):
        raise ProjectionError("a parameter still has a gradient: set .grad to None before projecting as it is born")
    out = torch.zeros(projection.d, dtype=torch.float32, device=parameters[0].device)

    def absorb(offset: int) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            gradient = parameter.grad
            if gradient is None:
                return
            if watch is not None:
                watch(gradient)
            projection.project_(gradient.detach().reshape(-1), offset, out)
            parameter.grad = None

        return hook

    handles = []
    offset = 0
    for parameter in parameters:
        handles.append(parameter.register_post_accumulate_grad_hook(absorb(offset)))  # type: ignore[no-untyped-call]
        offset += parameter.numel()
    try:
        yield out
    finally:
        for handle in handles:
            handle.remove()
