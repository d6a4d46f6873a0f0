"""The golden vectors, made by an independent implementation of the specification (tests/vectors/specification.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from igc.projection import projection_from_spec, to_dense
from igc.projection.philox import Stream, child_seed, philox
from igc.projection.signs import flip_

GOLDEN = json.loads((Path(__file__).parent.parent / "vectors" / "golden.json").read_text())

# The known answers that Random123 publishes for philox4x32-10 (tests/kat_vectors): counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def _hex(words: str) -> list[int]:
    return [int(word, 16) for word in words.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_published_known_answers(counter: str, key: str, answer: str) -> None:
    c0, c1, c2, c3 = (torch.tensor(word) for word in _hex(counter))
    k0, k1 = _hex(key)
    assert philox((c0, c1, c2, c3), k0 | k1 << 32).tolist() == _hex(answer)


@pytest.mark.parametrize("case", GOLDEN["matrices"], ids=lambda case: f"{case['spec']['family']}-{len(case['A'])}")
def test_matrices_are_the_golden_ones(case: dict[str, Any]) -> None:
    torch.testing.assert_close(to_dense(projection_from_spec(case["spec"])), torch.tensor(case["A"]))


def test_signs_are_the_golden_ones_far_beyond_32_bits() -> None:
    golden = GOLDEN["signs"]
    ones = torch.ones(len(golden["row"]))
    assert flip_(ones, golden["seed"], Stream.ROW_SIGNS, golden["start"]).tolist() == golden["row"]


@pytest.mark.parametrize("case", GOLDEN["children"], ids=lambda case: str(case["step"]))
def test_child_seeds_are_the_golden_ones(case: dict[str, int]) -> None:
    assert child_seed(case["seed"], case["step"]) == case["child"]
