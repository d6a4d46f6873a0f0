"""Whole-model `project` and in-place `add_expanded_`, written once over the tensors of a parameter space.

Tensors lie end to end in the flat view, and their borders rarely fall on a projection's blocks. Pieces are therefore
gathered in a buffer of whole blocks; nothing of size D is allocated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from igc.errors import ProjectionError
from igc.projection.base import CHUNK_ROWS, Projection


def project_tensors(projection: Projection, tensors: Sequence[Tensor | None], sizes: Sequence[int]) -> Tensor:
    """A^T g for a gradient that lies in many tensors.

    Args:
        projection: A, of shape (D, d).
        tensors: the gradient of each tensor of the space, in order; None counts as zero.
        sizes: the number of elements of each, summing to D.

    Returns:
        float32 (d,) on the tensors' device.

    Raises:
        ProjectionError: sizes do not fit, or every gradient is None.
    """
    _check_sizes(projection, tensors, sizes)
    device = next((tensor.device for tensor in tensors if tensor is not None), None)
    if device is None:
        raise ProjectionError("no tensor has a gradient: call backward() first")
    out = torch.zeros(projection.d, dtype=torch.float32, device=device)
    flats = [None if tensor is None else tensor.detach().reshape(-1) for tensor in tensors]
    runs = _runs(flats, sizes)
    if all(projection._kernel_project_(pieces, start, out) for start, pieces in runs):
        return out
    out.zero_()
    for start, stop, pieces in _windows(projection, sizes):
        buffer = torch.zeros(stop - start, dtype=torch.float32, device=device)
        for index, begin, end, at in pieces:
            flat = flats[index]
            if flat is not None:
                buffer[at : at + end - begin] = flat[begin:end]
        projection._project_(buffer, start, out)
    return out


def add_expanded_(projection: Projection, tensors: Sequence[Tensor], x: Tensor, alpha: float = 1.0) -> None:
    """``theta += alpha A x`` in place, for a theta that lies in many tensors; sums are formed in float32.

    Raises:
        ProjectionError: sizes do not fit.
    """
    sizes = [tensor.numel() for tensor in tensors]
    _check_sizes(projection, tensors, sizes)
    projection._check_low(x, "x")
    with torch.no_grad():
        if projection._kernel_add_expanded_([tensor.detach() for tensor in tensors], 0, x, alpha):
            return
        scaled = x if alpha == 1.0 else x * alpha
        for start, stop, pieces in _windows(projection, sizes):
            step = projection._expand(scaled, start, stop)
            for index, begin, end, at in pieces:
                _add_(tensors[index].detach(), begin, end, step[at : at + end - begin])


def expand_onto_(projection: Projection, tensors: Sequence[Tensor], bases: Sequence[Tensor], x: Tensor) -> None:
    """``theta = theta_0 + A x`` over many tensors, with the bits of a copy and `add_expanded_`.

    Raises:
        ProjectionError: sizes do not fit.
    """
    _check_sizes(projection, tensors, [tensor.numel() for tensor in bases])
    projection._check_low(x, "x")
    with torch.no_grad():
        if projection._kernel_expand_onto_([t.detach() for t in tensors], [b.detach() for b in bases], x):
            return
        for tensor, base in zip(tensors, bases, strict=True):
            tensor.copy_(base)
        add_expanded_(projection, tensors, x)


def _runs(flats: Sequence[Tensor | None], sizes: Sequence[int]) -> list[tuple[int, list[Tensor]]]:
    """Neighbouring tensors that are there, each run with its first row."""
    runs: list[tuple[int, list[Tensor]]] = []
    offset = 0
    for index, (flat, size) in enumerate(zip(flats, sizes, strict=True)):
        if flat is not None:
            if index == 0 or flats[index - 1] is None:
                runs.append((offset, []))
            runs[-1][1].append(flat)
        offset += size
    return runs


def _add_(tensor: Tensor, begin: int, end: int, step: Tensor) -> None:
    if tensor.is_contiguous():
        tensor.view(-1)[begin:end].add_(step)  # PyTorch adds mixed dtypes in float32 and rounds once
    else:
        flat = tensor.reshape(-1)
        flat[begin:end].add_(step)
        tensor.copy_(flat.view(tensor.shape))


def _windows(
    projection: Projection, sizes: Sequence[int]
) -> Iterator[tuple[int, int, list[tuple[int, int, int, int]]]]:
    """Cut rows 0 to D at multiples of the granule; each window with its pieces (tensor, begin, end, place in window)."""
    step = max(CHUNK_ROWS // projection.granule, 1) * projection.granule
    index, offset = 0, 0  # the tensor at hand and its first row
    for start in range(0, projection.D, step):
        stop = min(start + step, projection.D)
        pieces: list[tuple[int, int, int, int]] = []
        row = start
        while row < stop:
            while offset + sizes[index] <= row:
                offset += sizes[index]
                index += 1
            end = min(stop, offset + sizes[index])
            pieces.append((index, row - offset, end - offset, row - start))
            row = end
        yield start, stop, pieces


def _check_sizes(projection: Projection, tensors: Sequence[Tensor | None], sizes: Sequence[int]) -> None:
    if len(tensors) != len(sizes) or sum(sizes) != projection.D:
        raise ProjectionError(
            f"{len(tensors)} tensors with {sum(sizes):,} elements do not fit the {projection.D:,} rows of the projection"
        )
    for index, (tensor, size) in enumerate(zip(tensors, sizes, strict=True)):
        if tensor is not None and tensor.numel() != size:
            raise ProjectionError(f"tensor {index} has {tensor.numel():,} elements, its place in the space {size:,}")
