"""Sets of indices in few bits: which n of D numbers a sparse message is about.

Two codes, of which the shorter is used; both lengths follow from n and D alone, so that sender and receiver agree on them
without a word:

- a bitmap: bit i says whether i is in the set; D bits;
- Elias-Fano (Elias, J. ACM 1974; Fano 1971): with l = floor(log2(D / n)), the low l bits of each index in order, and their
  high parts in unary: bit (i_j >> l) + j is set for the j-th index i_j; n (l + 2) bits at most.

For n = 50,000 of D = 6,568,640 that is 8.6 bits an index where uint32 takes 32; the entropy of a random set is 8.5.
Bits fill 32-bit words from the least significant; what is left of a word is zero.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from igc.codecs.base import CodecError

Bits = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


def index_words(n: int, D: int) -> int:
    """How many 32-bit words n different indices below D take; 1 <= n <= D."""
    return min(_bitmap_words(D), sum(_elias_fano_words(n, D)))


def pack_indices(indices: Tensor, D: int) -> Tensor:
    """The code of a set, int64 (index_words(n, D),), each word in [0, 2^32).

    Args:
        indices: int64 (n,), strictly increasing, from 0 to D - 1.
        D: how many numbers there are.
    """
    found: Indices = indices.numpy()
    n = found.size
    if _bitmap_words(D) < sum(_elias_fano_words(n, D)):
        return _words(_set_bits(found, D))
    low = _low_bits(n, D)
    bits = np.empty((n, low), dtype=np.uint8)
    for k in range(low):
        bits[:, k] = found >> k & 1
    high = _set_bits((found >> low) + np.arange(n), n + ((D - 1) >> low))
    return torch.cat([_words(bits.reshape(-1)), _words(high)])


def unpack_indices(words: Tensor, n: int, D: int) -> Tensor:
    """The set in a code: int64 (n,), strictly increasing, from 0 to D - 1.

    Args:
        words: int64 (index_words(n, D),), as `pack_indices` makes.
        n: how many indices it holds.
        D: how many numbers there are.

    Raises:
        CodecError: no set of n indices below D has that code; the message names the values.
    """
    if words.numel() != index_words(n, D):
        raise CodecError(f"{words.numel()} words where {n:,} indices below {D:,} take {index_words(n, D)}")
    lows, highs = _elias_fano_words(n, D)
    if _bitmap_words(D) < lows + highs:
        return torch.from_numpy(_members(_bits(words, D), n))
    low = _low_bits(n, D)
    bits = _bits(words[:lows], n * low).reshape(n, low)
    found = _members(_bits(words[lows:], n + ((D - 1) >> low)), n) - np.arange(n) << low
    for k in range(low):
        found |= bits[:, k].astype(np.int64) << k
    if found[-1] >= D:
        raise CodecError(f"index {found[-1]:,} is not below {D:,}")
    steps = np.diff(found)
    if steps.size and steps.min() < 1:
        at = int(np.argmin(steps > 0))
        what = "comes twice" if steps[at] == 0 else f"comes before {found[at + 1]:,}"
        raise CodecError(f"index {found[at]:,} {what}; indices rise strictly")
    return torch.from_numpy(found)


def _low_bits(n: int, D: int) -> int:
    """Floor(log2(D / n))."""
    return (D // n).bit_length() - 1


def _bitmap_words(D: int) -> int:
    return -(-D // 32)


def _elias_fano_words(n: int, D: int) -> tuple[int, int]:
    """Words of the low bits, and of the high parts."""
    low = _low_bits(n, D)
    return -(-n * low // 32), -(-(n + ((D - 1) >> low)) // 32)


def _set_bits(places: Indices, count: int) -> Bits:
    bits = np.zeros(count, dtype=np.uint8)
    bits[places] = 1
    return bits


def _members(bits: Bits, n: int) -> Indices:
    found = np.flatnonzero(bits)
    if found.size != n:
        raise CodecError(f"{found.size:,} indices where there are {n:,} values")
    return found


def _words(bits: Bits) -> Tensor:
    octets = np.zeros(-(-bits.size // 32) * 4, dtype=np.uint8)
    packed = np.packbits(bits, bitorder="little")
    octets[: packed.size] = packed
    return torch.from_numpy(octets.view("<u4").astype(np.int64))


def _bits(words: Tensor, count: int) -> Bits:
    octets = words.numpy().astype("<u4").view(np.uint8)
    bits = np.unpackbits(octets, bitorder="little")
    if bits[count:].any():
        raise CodecError("bits are set after the last index")
    return bits[:count]
