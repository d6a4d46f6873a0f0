"""Checkpoints that survive a kill at any moment and refuse to load when damaged.

A file is, in this order::

    8 bytes   "IGC-CKPT"
    4 bytes   version of this layout, unsigned, little-endian: 1
    8 bytes   length of the payload, unsigned, little-endian
    32 bytes  SHA-256 of the payload
    payload   safetensors: the tensors, and in its metadata the round and a tree of JSON; a tree of more than 32 MB is a
              tensor of bytes, "__tree__": safetensors reads no more than 100 MB of metadata

It is written under another name, synced, and renamed: a reader sees all of it or nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from igc.errors import CheckpointError
from igc.experiments.atomic import write_atomically

MAGIC = b"IGC-CKPT"
VERSION = 1

_TREE = "tree"
_LONG_TREE = "__tree__"
_LONGEST = 2**25  # characters

_HEADER = struct.Struct("<8sIQ32s")
_NAME = re.compile(r"round-(\d{8,})\.ckpt")


def save(folder: Path, round: int, tree: Mapping[str, Any], tensors: Mapping[str, Tensor], keep: int) -> Path:
    """Write the checkpoint of a round, then delete what it makes obsolete.

    Obsolete are all but the newest ``keep``, and those of later rounds: they are of a future that was taken back when
    the run went on from before them.

    Args:
        folder: where to; made if need be. It belongs to one process at a time.
        round: rounds done.
        tree: whatever JSON can hold; comes back with lists for tuples and text for keys.
        tensors: by name, on any device.
        keep: at least 1.

    Raises:
        CheckpointError: it could not be written, as on a full disk; earlier checkpoints are all still there.
    """
    if keep < 1:
        raise ValueError(f"keep = {keep}; at least the checkpoint just written is kept")
    text, metadata, named = json.dumps(tree, separators=(",", ":")), {"round": str(round)}, dict(tensors)
    if len(text) <= _LONGEST:
        metadata[_TREE] = text
    else:
        named[_LONG_TREE] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    payload = safetensors.torch.save(_apart(named), metadata)
    header = _HEADER.pack(MAGIC, VERSION, len(payload), hashlib.sha256(payload).digest())
    path = folder / f"round-{round:08}.ckpt"
    write_atomically(path, header + payload, error=CheckpointError)
    rounds = _rounds(folder)
    current = sorted((number for number in rounds if number <= round), reverse=True)
    for number in rounds.keys() - set(current[:keep]):
        _remove(rounds[number])
    return path


def exists(folder: Path) -> bool:
    """Whether there is a checkpoint, whole or damaged; left-overs of a killed writer are none."""
    return bool(_rounds(folder))


def tidy(folder: Path) -> None:
    """Delete the left-overs of a killed writer. For the process that writes: another's unfinished file looks the same."""
    for leftover in folder.glob("*.tmp"):
        _remove(leftover)


def load_latest(folder: Path, on_damaged: Callable[[str], None]) -> tuple[int, dict[str, Any], dict[str, Tensor]]:
    """The newest checkpoint that is whole; nothing is changed, so that a run may be looked at while it trains.

    Args:
        folder: where `save` wrote.
        on_damaged: told, in a line each, which newer ones are damaged, and how.

    Returns:
        Rounds done, the tree, and the tensors, on the CPU.

    Raises:
        CheckpointError: there is none, or each of them is damaged.
    """
    damaged = []
    for _, path in sorted(_rounds(folder).items(), reverse=True):
        try:
            return _load(path)
        except CheckpointError as error:
            damaged.append(str(error))
            on_damaged(f"{error}; trying the one before it")
    if damaged:
        raise CheckpointError(f"no checkpoint in {folder} can be used: {'; '.join(damaged)}; start the run anew")
    raise CheckpointError(f"there is no checkpoint in {folder}: `igc resume` begins at the start, and puts one there")


def _load(path: Path) -> tuple[int, dict[str, Any], dict[str, Tensor]]:
    """Read one file strictly; every error names the file and the defect."""
    try:
        with path.open("rb") as file:
            header, payload = file.read(_HEADER.size), file.read()
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read ({error.strerror})") from error
    if len(header) < _HEADER.size:
        raise CheckpointError(f"{path.name} is cut short ({len(header)} bytes, fewer than its header has)")
    magic, version, length, digest = _HEADER.unpack(header)
    if magic != MAGIC:
        raise CheckpointError(f"{path.name} is no checkpoint (it starts with {magic!r}, not {MAGIC!r})")
    if version != VERSION:
        raise CheckpointError(f"{path.name} has layout version {version}, of which this igc knows {VERSION} only")
    if len(payload) != length:
        raise CheckpointError(
            f"{path.name} is damaged ({len(payload):,} bytes of payload where it promises {length:,})"
        )
    if hashlib.sha256(payload).digest() != digest:
        raise CheckpointError(f"{path.name} is damaged (its SHA-256 does not fit its content)")
    (size,) = struct.unpack_from("<Q", payload)
    metadata = json.loads(payload[8 : 8 + size])["__metadata__"]
    tensors = safetensors.torch.load(payload)
    text = metadata[_TREE] if _TREE in metadata else tensors.pop(_LONG_TREE).numpy().tobytes()
    return int(metadata["round"]), json.loads(text), tensors


def _rounds(folder: Path) -> dict[int, Path]:
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.glob("round-*.ckpt"))
    return {int(match[1]): path for match, path in matches if match}


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors wants them, on the CPU, contiguous, no two sharing memory; copied only if need be."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        memory = flat.untyped_storage().data_ptr()
        apart[name] = flat.clone() if memory in seen else flat
        seen.add(memory)
    return apart


def _remove(path: Path) -> None:
    """Delete what is not needed; where that fails, it does no harm."""
    with contextlib.suppress(OSError):
        path.unlink()
