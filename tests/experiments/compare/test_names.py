"""Names of entrants on the command line: values of settings may hold what parts names elsewhere."""

from __future__ import annotations

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from igc.experiments.compare.entrants import entrants
from igc.experiments.compare.names import names, parts
from igc.experiments.recipe import load, parse_override

TEXTS = st.text(st.sampled_from("ab,+=[]{}\"'\\ *?1"), max_size=8)
VALUES = st.one_of(
    st.lists(TEXTS, max_size=3), st.dictionaries(st.sampled_from(["a", "b*"]), st.integers(0, 9), max_size=2), TEXTS
)


def inline(value: object) -> str:
    """A value as TOML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{inline(k)} = {inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").rstrip("\n")


@given(st.lists(st.lists(st.tuples(st.sampled_from(["method.full", "a-b.c_d"]), VALUES), max_size=3), max_size=3))
def test_whatever_toml_a_value_is_it_comes_back(asked: list[list[tuple[str, object]]]) -> None:
    written = ["+".join(["static", *(f"{key}={inline(value)}" for key, value in settings)]) for settings in asked]
    found = names(",".join(written))
    assert found == written
    for name, settings in zip(found, asked, strict=True):
        plain, *changes = parts(name)
        assert plain == "static"
        assert [parse_override(change) for change in changes] == [(key.split("."), value) for key, value in settings]


def test_lists_tables_and_exponents_reach_the_recipe() -> None:
    text = (
        'static+method.full=["classifier.*","*.bias"], fedsgd+optimizer.learning_rate=1e+0 ,'
        'static+method.budgets={"*embeddings*"=32,"*.weight"=64}+method.dim=16,'
    )
    full, rated, budgets = entrants(names(text))
    base = load("movie-reviews")
    assert full.recipe(base, 0.1, {}).method.full == ("classifier.*", "*.bias")
    assert rated.first_rate(base) == 1.0
    made = budgets.recipe(base, 0.1, {}).method
    assert (made.budgets, made.dim) == ({"*embeddings*": 32, "*.weight": 64}, 16)


@pytest.mark.parametrize("text", ["", " , ", ","])
def test_there_may_be_none(text: str) -> None:
    assert names(text) == []
