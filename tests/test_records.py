"""Records through JSON and tensors, and back."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from igc.errors import CheckpointError
from igc.records import from_tree, record, to_tree


@record
class Pair:
    left: Any
    right: Any = None


@record
class Counter:
    count: int
    history: tuple[Any, ...] = ()
    by_name: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Stranger:
    value: int


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool]


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    raw = torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
    value = raw.to(draw(st.sampled_from(DTYPES)))
    return value.t() if value.dim() == 2 and draw(st.booleans()) else value


# Names that the tree itself uses must not confuse it.
keys = st.one_of(st.text(max_size=5), st.sampled_from(["tensor", "record", "fields", "dict"]))
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8), keys, tensors()
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
        st.builds(Pair, inner, inner),
        st.builds(
            Counter, st.integers(), st.lists(inner, max_size=2).map(tuple), st.dictionaries(keys, inner, max_size=2)
        ),
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Equal in value and in type, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


def through_json(value: Any) -> Any:
    held: dict[str, Tensor] = {}
    tree = json.loads(json.dumps(to_tree(value, held)))
    return from_tree(tree, held)


@settings(max_examples=150)
@given(value=values)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    assert same(through_json(value), value)


def test_numbers_that_json_does_not_know_come_back() -> None:
    found = through_json((float("nan"), float("inf"), -0.0))
    assert found[0] != found[0]
    assert found[1] == float("inf")
    assert str(found[2]) == "-0.0"


def test_equal_tensors_are_held_once_and_others_apart() -> None:
    held: dict[str, Tensor] = {}
    a = torch.arange(6.0)
    to_tree((a, a.clone(), Pair(a, {"a": a})), held)
    assert len(held) == 1
    for other in (a.view(2, 3), a.double(), a.to(torch.int64), -a, a[:5], torch.zeros(0), torch.zeros(0, 2)):
        before = len(held)
        to_tree(other, held)
        assert len(held) == before + 1
    to_tree((torch.tensor([0.0]), torch.tensor([-0.0])), held)
    assert len(held) == 8 + 2


def test_a_view_holds_its_own_numbers_only() -> None:
    held: dict[str, Tensor] = {}
    matrix = torch.arange(12.0).view(3, 4)
    to_tree((matrix.t(), matrix.t().clone()), held)
    assert len(held) == 1
    assert torch.equal(next(iter(held.values())), matrix.t())


def test_what_needs_a_gradient_is_held_without() -> None:
    held: dict[str, Tensor] = {}
    to_tree(torch.ones(2, requires_grad=True), held)
    assert not next(iter(held.values())).requires_grad


def test_records_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Pair(1).left = 2  # type: ignore[misc]


def test_a_type_that_is_not_known_is_refused_by_name() -> None:
    tree = to_tree(Pair(1, 2), {})
    tree["record"] = "igc.methods.retired.State"
    with pytest.raises(CheckpointError, match=r"igc\.methods\.retired\.State.*does not know"):
        from_tree(tree, {})


def test_a_type_is_never_looked_up_by_import() -> None:
    with pytest.raises(CheckpointError, match="does not know"):
        from_tree({"record": "builtins.print", "fields": {}}, {})


def test_a_tensor_that_is_not_there_is_refused_by_name() -> None:
    held: dict[str, Tensor] = {}
    tree = to_tree((torch.zeros(2),), held)
    (key,) = held
    with pytest.raises(CheckpointError, match=key):
        from_tree(tree, {})


def test_fields_of_another_version_are_refused() -> None:
    for fields in ({"left": 1}, {"left": 1, "right": 2, "middle": 3}, {"port": 1, "starboard": 2}):
        tree = {"record": to_tree(Pair(1), {})["record"], "fields": fields}
        with pytest.raises(CheckpointError, match="other fields"):
            from_tree(tree, {})


def test_what_could_not_be_read_again_is_refused_when_it_is_written() -> None:
    with pytest.raises(TypeError, match="Stranger"):
        to_tree(Pair(Stranger(1)), {})
    with pytest.raises(TypeError, match="dict"):  # JSON would make its keys strings
        to_tree(Pair({1: "one"}), {})


@pytest.mark.parametrize("value", [{1, 2}, [1, 2], b"bytes", 1j, object()], ids=lambda value: type(value).__name__)
def test_what_a_record_cannot_hold_is_refused_when_it_is_written(value: Any) -> None:
    with pytest.raises(TypeError, match=type(value).__name__):
        to_tree(Pair(value), {})
