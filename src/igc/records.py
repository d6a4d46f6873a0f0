"""Frozen dataclasses as JSON and tensors, and back: how states and memories reach a checkpoint without pickle."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar, dataclass_transform

import torch
from torch import Tensor

from igc.errors import CheckpointError

T = TypeVar("T")
_TYPES: dict[str, type[Any]] = {}


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass that `to_tree` and `from_tree` know by name.

    Fields may hold None, bool, int, float, str, tensors, other records, and tuples and string-keyed dicts of these.
    """
    made = dataclasses.dataclass(frozen=True)(cls)
    name = f"{cls.__module__}.{cls.__qualname__}"
    _TYPES[name] = made
    return made


def to_tree(value: Any, tensors: dict[str, Tensor], digests: Mapping[int, str] | None = None) -> Any:
    """A JSON-ready tree of a value; its tensors go into ``tensors`` under the digest of their content, each once.

    Args:
        value: the record.
        tensors: what the tree refers to.
        digests: of tensors that were digested before and still exist, by their ``id``.
    """
    if isinstance(value, Tensor):
        key = (digests or {}).get(id(value)) or tensor_digest(value)
        # The very tensor where that will do: whoever compares by identity must recognise it.
        plain = value if not value.requires_grad else value.detach()
        tensors.setdefault(key, plain.contiguous().cpu())
        return {"tensor": key}
    if type(value) in _TYPES.values():
        fields = {f.name: to_tree(getattr(value, f.name), tensors, digests) for f in dataclasses.fields(value)}
        return {"record": f"{type(value).__module__}.{type(value).__qualname__}", "fields": fields}
    if isinstance(value, tuple):
        return [to_tree(item, tensors, digests) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: to_tree(item, tensors, digests) for key, item in value.items()}}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a record cannot hold {type(value).__name__}")


def from_tree(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `to_tree` made a tree of.

    Raises:
        CheckpointError: the tree names a type or a tensor that is not there.
    """
    if isinstance(tree, list):
        return tuple(from_tree(item, tensors) for item in tree)
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        if tree["tensor"] not in tensors:
            raise CheckpointError(f"the checkpoint names a tensor that it does not hold ({tree['tensor']})")
        return tensors[tree["tensor"]]
    if "record" in tree:
        kind = _TYPES.get(tree["record"])
        if kind is None:
            raise CheckpointError(f"the checkpoint holds '{tree['record']}', which this version of igc does not know")
        if tree["fields"].keys() != {field.name for field in dataclasses.fields(kind)}:
            raise CheckpointError(
                f"the checkpoint's '{tree['record']}' has other fields than this version of igc writes"
            )
        return kind(**{name: from_tree(item, tensors) for name, item in tree["fields"].items()})
    return {key: from_tree(item, tensors) for key, item in tree["dict"].items()}


def tensor_digest(tensor: Tensor) -> str:
    """A name for a tensor's dtype, shape and bytes."""
    flat = tensor.detach().cpu().contiguous()
    digest = hashlib.blake2b(f"{flat.dtype}{tuple(flat.shape)}".encode(), digest_size=16)
    digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
