"""What is sent exactly: the bits of binary32, or any bytes, as whole numbers, so that no lossy codec touches them."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def to_bits(tensor: Tensor) -> Tensor:
    """Binary32 numbers as the unsigned integers of the same bits: int64, of the same shape."""
    return tensor.to(torch.float32).contiguous().view(torch.int32).to(torch.int64) & 0xFFFFFFFF


def from_bits(bits: Tensor) -> Tensor:
    """The binary32 numbers whose bits these are; the inverse of `to_bits`."""
    return bits.to(torch.int64).to(torch.int32).view(torch.float32)  # to int32: the lower half, as it is


def little_endian(tensor: Tensor) -> bytes:
    """Binary32 numbers as bytes, the same on every machine."""
    return to_bits(tensor).numpy().astype("<u4").tobytes()


def name_of(person: bytes, *parts: bytes) -> int:
    """A name of 32 bits for what all parties must have alike: a hash of its parts, end to end; not 0.

    Args:
        person: personalises the hash, so that things of two kinds have different names.
        parts: the thing's bytes.
    """
    digest = hashlib.blake2b(b"".join(parts), digest_size=4, person=person)
    return int.from_bytes(digest.digest(), "little") or 1


def to_words(data: Tensor) -> Tensor:
    """Bytes, uint8 (n,), as little-endian words, int64; the last is filled up with zeros."""
    padded = np.zeros(-(-data.numel() // 4) * 4, dtype=np.uint8)
    padded[: data.numel()] = data.numpy()
    return torch.from_numpy(padded.view("<u4").astype(np.int64))


def from_words(words: Tensor, count: int) -> Tensor:
    """The first ``count`` bytes of words; the inverse of `to_words`."""
    found = words.to(torch.int64).numpy().astype("<u4").view(np.uint8)[:count]
    return torch.from_numpy(found.copy())
