"""The parameter space of a module: the ordered, flat view of its trainable tensors."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn

from igc.errors import SpaceError

SUPPORTED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Entry:
    """One trainable tensor's place in the flat view: coordinates ``offset`` to ``offset + size``, row-major."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        """One past the last coordinate."""
        return self.offset + self.size


@dataclass(frozen=True)
class ParameterSpace:
    """R^D as the concatenation of named tensors, in the module's own order.

    A value: it holds names and shapes, never tensors, so one space serves every party that builds the same module. Tied
    weights count once, under the first of their names; frozen and excluded tensors are left out.
    """

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, module: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> ParameterSpace:
        """The space of a module's trainable tensors.

        Args:
            module: any module with at least one trainable floating-point parameter.
            include: shell-style patterns (``"encoder.*"``); where given, only tensors with a matching name stay.
            exclude: patterns of names to leave out; wins over ``include``. A tied tensor matches by any of its names.

        Raises:
            SpaceError: nothing is left to train, a pattern matches nothing, a dtype is not supported, or two tensors
                share memory without being the same parameter.
        """
        aliases: dict[int, list[str]] = {}
        parameters: dict[int, nn.Parameter] = {}
        for name, parameter in module.named_parameters(remove_duplicate=False):
            aliases.setdefault(id(parameter), []).append(name)
            parameters[id(parameter)] = parameter
        _check_patterns([*include, *exclude], [name for names in aliases.values() for name in names])

        chosen: dict[str, nn.Parameter] = {}
        for key, names in aliases.items():
            wanted = not include or _any_match(names, include)
            if parameters[key].requires_grad and wanted and not _any_match(names, exclude):
                chosen[names[0]] = parameters[key]
        _check_tensors(chosen)
        return cls.from_shapes((name, tuple(parameter.shape)) for name, parameter in chosen.items())

    @classmethod
    def from_shapes(cls, shapes: Iterable[tuple[str, tuple[int, ...]]]) -> ParameterSpace:
        """The space of tensors with these names and shapes, in this order."""
        entries: list[Entry] = []
        offset = 0
        for name, shape in shapes:
            entries.append(Entry(name, tuple(shape), offset))
            offset = entries[-1].stop
        if offset == 0:
            raise SpaceError(
                "nothing to train: the parameter space is empty; check `include`, `exclude`, requires_grad"
            )
        return cls(tuple(entries))

    @cached_property
    def D(self) -> int:  # noqa: N802 - the letter of the paper
        """Number of trainable parameters."""
        return self.entries[-1].stop

    @cached_property
    def fingerprint(self) -> bytes:
        """Eight bytes that change with names, shapes and order; what both sides of the wire must agree on."""
        listing = json.dumps([[e.name, list(e.shape)] for e in self.entries], separators=(",", ":"))
        return hashlib.blake2b(listing.encode(), digest_size=8, person=b"igc-space").digest()

    def parameters(self, module: nn.Module) -> list[nn.Parameter]:
        """The module's tensors in the order of the space.

        Raises:
            SpaceError: a tensor is missing or has another shape.
        """
        found = dict(module.named_parameters(remove_duplicate=False))
        tensors: list[nn.Parameter] = []
        for entry in self.entries:
            tensor = found.get(entry.name)
            if tensor is None:
                raise SpaceError(f"the model has no parameter '{entry.name}'; was it built from the same recipe?")
            if tuple(tensor.shape) != entry.shape:
                raise SpaceError(f"'{entry.name}' has shape {tuple(tensor.shape)}, the parameter space {entry.shape}")
            tensors.append(tensor)
        return tensors

    def gradients(self, module: nn.Module) -> list[Tensor | None]:
        """The gradients now in the module's ``.grad``, in the order of the space; None where backward gave none."""
        return [parameter.grad for parameter in self.parameters(module)]


def flat_views(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Each tensor as one row-major vector: a view where its memory allows one, else a copy."""
    for tensor in tensors:
        yield tensor.detach().reshape(-1)


def _any_match(names: Iterable[str], patterns: Iterable[str]) -> bool:
    patterns = list(patterns)
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _check_patterns(patterns: Sequence[str], names: Sequence[str]) -> None:
    idle = [pattern for pattern in patterns if not _any_match(names, [pattern])]
    if idle:
        some = ", ".join(names[:4])
        raise SpaceError(f"no parameter matches {', '.join(map(repr, idle))}; the model's names look like: {some}, ...")


def _check_tensors(chosen: dict[str, nn.Parameter]) -> None:
    if not chosen:
        raise SpaceError("nothing to train: no trainable parameter is left after `include` and `exclude`")
    spans: list[tuple[str, int, int, str]] = []
    for name, parameter in chosen.items():
        if parameter.dtype not in SUPPORTED_DTYPES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in SUPPORTED_DTYPES)
            raise SpaceError(f"'{name}' is {str(parameter.dtype).removeprefix('torch.')}; supported are {known}")
        if parameter.is_meta:
            raise SpaceError(f"'{name}' is on the meta device; materialise the model before training it")
        storage = parameter.untyped_storage()
        steps = zip(parameter.shape, parameter.stride(), strict=True)
        extent = sum((size - 1) * int(stride) for size, stride in steps) + 1
        begin = storage.data_ptr() + int(parameter.storage_offset()) * parameter.element_size()
        if parameter.numel():
            spans.append((str(parameter.device), begin, begin + extent * parameter.element_size(), name))
    spans.sort()
    for (device, _, stop, first), (other_device, begin, _, second) in pairwise(spans):
        if device == other_device and begin < stop:
            raise SpaceError(
                f"'{first}' and '{second}' share memory but are not the same parameter; tie them (one nn.Parameter under"
                " both names), copy one, or exclude one"
            )
