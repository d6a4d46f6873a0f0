"""`igc dimension`: what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.command import igc
from support.tiny import write_recipe


def test_the_split_that_is_reported_chooses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path / "tiny", evaluation={"splits": ["validation"]})
    arguments = ["dimension", str(recipe), "--out", str(tmp_path / "study")]
    refused = igc([*arguments, "--max-hours", "0"], capsys, monkeypatch)
    assert (refused.code, "split 'validation' would choose the learning rates and be reported" in refused.err) == (
        2,
        True,
    )
    assert not (tmp_path / "study").exists()
    assert igc([*arguments, "--validation", "test", "--max-hours", "0"], capsys, monkeypatch).code == 0
