"""Numbers of bytes on the command line."""

from __future__ import annotations

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from igc.experiments.size import size
from support.command import igc


@given(st.integers(1, 10**15))
def test_plain_numbers_are_themselves(count: int) -> None:
    assert size(str(count)) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("5MB", 5_000_000),
        ("5 mb", 5_000_000),
        ("1.5GB", 1_500_000_000),
        ("64kB", 64_000),
        ("5e6", 5_000_000),
        ("12 B", 12),
    ],
)
def test_units_are_decimal(text: str, count: int) -> None:
    assert size(text) == count


@pytest.mark.parametrize(
    "text", ["", "0", "-5", "MB", "5 MiB", "five", "nan", "0.4", "5 5", "1e400", "9" * 400, "1e300TB"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"is no number of bytes; give one such as 5000000, 5MB or 1\.5GB"):
        size(text)


@pytest.mark.parametrize("command", [["compare", "movie-reviews", "--budget"], ["tune", "movie-reviews", "--bytes"]])
def test_commands_say_so(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = igc([*command, "5 MiB"], capsys, monkeypatch)
    assert outcome.code == 2
    assert "is no number of bytes" in " ".join(outcome.err.split())
