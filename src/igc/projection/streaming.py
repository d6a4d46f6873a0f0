"""Gradients projected as backward finishes them, and freed: a whole gradient is never held.

Blocks of rows are transformed as a whole, and most of a model's tensors begin and end within one. Gradients therefore wait
for their neighbours until there are some megabytes of them, and go through the kernel together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Final

import torch
from torch import Tensor

from igc.errors import ProjectionError
from igc.projection.base import Projection

# Elements of gradients that wait for their neighbours: 16 MB in float32, which a layer of a small language model fills.
WAITING: Final = 2**22


@contextmanager
def project_as_born(
    projection: Projection,
    parameters: Sequence[Tensor],
    watch: Callable[[Tensor], None] | None = None,
    waiting: int = WAITING,
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
        waiting: elements of gradients that may wait for their neighbours before they are projected; 0 projects each at
            once, which takes the least memory, and more time where tensors are small beside the projection's blocks.

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
    line = _Line(projection, out, waiting)
    begins = [0, *accumulate(parameter.numel() for parameter in parameters)]

    def absorb(index: int, gradient: Tensor) -> None:
        if watch is not None:
            watch(gradient)
        line.add(begins[index], gradient.detach().reshape(-1))

    with absorbed(parameters, absorb):
        yield out
        line.project()


@contextmanager
def absorbed(parameters: Sequence[Tensor], absorb: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Hand every gradient of these parameters over as soon as ``backward()`` has finished it, and free it.

    Args:
        parameters: leaf tensors.
        absorb: called with a parameter's place in the list and its gradient.
    """

    def hook(index: int) -> Callable[[Tensor], None]:
        def take(parameter: Tensor) -> None:
            if parameter.grad is not None:
                absorb(index, parameter.grad)
                parameter.grad = None

        return take

    handles = [
        parameter.register_post_accumulate_grad_hook(hook(index))  # type: ignore[no-untyped-call]
        for index, parameter in enumerate(parameters)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Line:
    """Gradients that wait to be projected."""

    def __init__(self, projection: Projection, out: Tensor, waiting: int) -> None:
        self._projection = projection
        self._out = out
        self._limit = waiting
        self._pieces: list[tuple[int, Tensor]] = []  # first row, flat gradient

    def add(self, start: int, piece: Tensor) -> None:
        self._pieces.append((start, piece))
        if sum(waiting.numel() for _, waiting in self._pieces) >= self._limit:
            self.project()

    def project(self) -> None:
        """Project what waits, neighbours together."""
        pieces, self._pieces = sorted(self._pieces, key=lambda piece: piece[0]), []
        run: list[Tensor] = []
        begin = end = 0
        for start, piece in pieces:
            if run and start != end:
                self._projection.project_run_(run, begin, self._out)
                run = []
            begin, end = (begin if run else start), start + piece.numel()
            run.append(piece)
        if run:
            self._projection.project_run_(run, begin, self._out)
