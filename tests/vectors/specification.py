"""The specification of docs/projections.md in plain Python integers and floats: no tensor, no code of igc.

An independent second implementation. `python tests/vectors/specification.py` writes the golden vectors, which every
backend of igc must reproduce.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

MASK = 0xFFFFFFFF
ROW_SIGNS, COLUMN_SIGNS, NORMALS, PERMUTATION, SHIFTS, CHILD_SEED = range(6)
COORDINATES = 10
Matrix = list[list[float]]


def philox(counter: tuple[int, int, int, int], seed: int) -> tuple[int, int, int, int]:
    c0, c1, c2, c3 = counter
    k0, k1 = seed & MASK, seed >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def block(seed: int, stream: int, index: int, lane: int = 0) -> tuple[int, int, int, int]:
    return philox((index & MASK, index >> 32, stream, lane), seed)


def sign(seed: int, stream: int, i: int) -> int:
    return -1 if block(seed, stream, i // 128)[i // 32 % 4] >> (i % 32) & 1 else 1


def normal(seed: int, i: int) -> float:
    w = block(seed, NORMALS, i // 2)
    u = ((w[0] << 21 | w[1] >> 11) + 1) * 2.0**-53
    v = (w[2] << 21 | w[3] >> 11) * 2.0**-53
    radius, angle = math.sqrt(-2 * math.log(u)), 2 * math.pi * v
    return radius * (math.sin(angle) if i % 2 else math.cos(angle))


def permuted(seed: int, b: int, bits: int, i: int) -> int:
    for lane in range(4):
        w = block(seed, PERMUTATION, b, lane)
        i = (i * (w[0] | 1) + w[1]) % 2**bits
        i ^= i >> (bits + 1) // 2
    return i


def shift(seed: int, t: int, d: int) -> int:
    return block(seed, SHIFTS, t // 4)[t % 4] * d >> 32


def child_seed(seed: int, step: int) -> int:
    w = block(seed, CHILD_SEED, step)
    return w[0] | w[1] << 32


def hadamard(i: int, j: int) -> int:
    return -1 if (i & j).bit_count() % 2 else 1


def blocked_hadamard(D: int, d: int, seed: int, n: int) -> Matrix:
    S = -(-d // n)
    size, longer = divmod(d, S)
    A = [[0.0] * d for _ in range(D)]
    for i in range(D):
        b, row = divmod(i, n)
        q = b % S
        width = size + (q < longer)
        offset = q * size + min(q, longer)
        for j in range(width):
            signs = sign(seed, ROW_SIGNS, i) * sign(seed, COLUMN_SIGNS, b * n + j)
            A[i][offset + j] = signs * hadamard(row, j) / math.sqrt(width)
    return A


def fastfood(D: int, d: int, seed: int, n: int) -> Matrix:
    bits = n.bit_length() - 1
    A = []
    for i in range(D):
        b, row = divmod(i, n)
        gain = [normal(seed, b * n + k) for k in range(n)]
        place = [permuted(seed, b, bits, k) for k in range(n)]
        scale = math.sqrt(d * sum(g * g for g in gain))
        A.append(
            [
                sum(hadamard(row, k) * gain[k] * hadamard(place[k], j) for k in range(n))
                * sign(seed, COLUMN_SIGNS, b * n + j)
                / scale
                for j in range(d)
            ]
        )
    return A


def partition(D: int, d: int, seed: int) -> Matrix:
    A = [[0.0] * d for _ in range(D)]
    for i in range(D):
        t, j = divmod(i, d)
        A[i][(j + shift(seed, t, d)) % d] = float(sign(seed, ROW_SIGNS, i))
    return A


def count_sketch(D: int, d: int, seed: int, rows: int) -> Matrix:
    parts = [partition(D, d // rows, child_seed(seed, q)) for q in range(rows)]
    return [[x / math.sqrt(rows) for part in parts for x in part[i]] for i in range(D)]


def coordinates(D: int, d: int, seed: int) -> Matrix:
    A = [[0.0] * d for _ in range(D)]
    for j in range(d):
        begin, end = j * D // d, (j + 1) * D // d
        row = begin + (block(seed, COORDINATES, j // 4)[j % 4] * (end - begin) >> 32)
        A[row][j] = math.sqrt(end - begin)
    return A


def dense_gaussian(D: int, d: int, seed: int) -> Matrix:
    return [[normal(seed, i * d + j) / math.sqrt(d) for j in range(d)] for i in range(D)]


def scaled(inner: Matrix, sizes: list[int], weights: list[float]) -> Matrix:
    w = [weight for size, weight in zip(sizes, weights, strict=True) for _ in range(size)]
    return [[weight * x for x in row] for weight, row in zip(w, inner, strict=True)]


def direct_sum(parts: list[Matrix], sizes: list[int], groups: list[int]) -> Matrix:
    rows = [iter(part) for part in parts]
    A = []
    for size, group in zip(sizes, groups, strict=True):
        for _ in range(size):
            A.append(
                [x for q, part in enumerate(parts) for x in (next(rows[q]) if q == group else [0.0] * len(part[0]))]
            )
    return A


def columns(parts: list[Matrix]) -> Matrix:
    d = sum(len(part[0]) for part in parts)
    return [[x * math.sqrt(len(row) / d) for row in rows for x in row] for rows in zip(*parts, strict=True)]


def identity(D: int) -> Matrix:
    return [[float(i == j) for j in range(D)] for i in range(D)]


SEED = 0x0123456789ABCDEF
CASES: list[dict[str, Any]] = [
    {"family": "blocked-hadamard", "D": 21, "d": 5, "seed": SEED, "block": 8},
    {"family": "blocked-hadamard", "D": 300, "d": 7, "seed": 2**64 - 1, "block": 4},
    {"family": "blocked-hadamard", "D": 40, "d": 8, "seed": 0, "block": 8},
    {"family": "fastfood", "D": 37, "d": 6, "seed": SEED, "block": 8},
    {"family": "fastfood", "D": 10, "d": 3, "seed": 7, "block": 16},
    {"family": "partition", "D": 150, "d": 11, "seed": SEED},
    {"family": "dense-gaussian", "D": 13, "d": 5, "seed": SEED},
    {"family": "count-sketch", "D": 100, "d": 21, "seed": SEED, "rows": 3},
    {"family": "coordinates", "D": 150, "d": 11, "seed": SEED},
]
# The mean square of these weights is exactly 1: 14 / 4 + 4 + 6 * 9 / 4 = 21.
CASES.append({"family": "scaled", "inner": CASES[0], "sizes": [14, 0, 1, 6], "weights": [0.5, 8.0, 2.0, 1.5]})
CASES.append(
    {
        "family": "direct-sum",
        "parts": [CASES[2], {"family": "identity", "D": 3, "d": 3, "seed": 0}, CASES[0]],
        "sizes": [30, 3, 20, 10, 1],
        "groups": [0, 1, 2, 0, 2],
    }
)
CASES.append({"family": "columns", "parts": [CASES[0], {"family": "partition", "D": 21, "d": 4, "seed": SEED}]})
BUILDERS: dict[str, Callable[[dict[str, Any]], Matrix]] = {
    "blocked-hadamard": lambda c: blocked_hadamard(c["D"], c["d"], c["seed"], c["block"]),
    "fastfood": lambda c: fastfood(c["D"], c["d"], c["seed"], c["block"]),
    "partition": lambda c: partition(c["D"], c["d"], c["seed"]),
    "count-sketch": lambda c: count_sketch(c["D"], c["d"], c["seed"], c["rows"]),
    "coordinates": lambda c: coordinates(c["D"], c["d"], c["seed"]),
    "dense-gaussian": lambda c: dense_gaussian(c["D"], c["d"], c["seed"]),
    "identity": lambda c: identity(c["D"]),
    "scaled": lambda c: scaled(matrix(c["inner"]), c["sizes"], c["weights"]),
    "columns": lambda c: columns([matrix(part) for part in c["parts"]]),
    "direct-sum": lambda c: direct_sum([matrix(part) for part in c["parts"]], c["sizes"], c["groups"]),
}


def matrix(spec: dict[str, Any]) -> Matrix:
    return BUILDERS[spec["family"]](spec)


def main() -> None:
    golden = {
        "matrices": [{"spec": case, "A": matrix(case)} for case in CASES],
        "signs": {
            "seed": SEED,
            "start": 2**37 - 100,
            "row": [sign(SEED, ROW_SIGNS, 2**37 - 100 + i) for i in range(300)],
        },
        "children": [{"seed": SEED, "step": step, "child": child_seed(SEED, step)} for step in (0, 1, 2, 2**40)],
    }
    path = Path(__file__).with_name("golden.json")
    path.write_text(json.dumps(golden, separators=(",", ":")).replace('{"spec"', '\n{"spec"') + "\n")


if __name__ == "__main__":
    main()
