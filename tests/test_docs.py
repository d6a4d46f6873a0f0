"""The documentation is held to the code: examples run, links lead somewhere, and every key of a recipe is described."""

from __future__ import annotations

import dataclasses
import json
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from igc.data import SOURCES
from igc.experiments.progress import RoundRecord
from igc.experiments.recipe import Recipe

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ROW = re.compile(r"^\|(.+)\|$", re.MULTILINE)


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """Fenced blocks of a language, each with the number of its first line."""
    text = page.read_text()
    for found in FENCE.finditer(text):
        if found[1] == language:
            yield text.count("\n", 0, found.start()) + 2, found[2]


def run(page: Path) -> dict[str, Any]:
    """Run a page's Python as one program; a failure points at the page's own line."""
    names: dict[str, Any] = {"__name__": page.stem}
    for line, code in blocks(page, "python"):
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)
    return names


@pytest.mark.parametrize("name", ["library.md", "messages.md"])
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "space" in run(DOCS / name)  # a page whose blocks are no longer found would pass unseen


def test_the_message_written_out_in_hexadecimal_is_what_the_code_makes() -> None:
    ((_, dump),) = blocks(DOCS / "messages.md", "hex")
    written = bytes.fromhex("".join(line.partition("#")[0] for line in dump.splitlines()))
    assert written == run(DOCS / "messages.md")["payload"]


def slugs(page: Path) -> set[str]:
    """Anchors of a page's headings, as forges make them: a heading that comes again is numbered."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    kept = string.ascii_lowercase + string.digits + " -_"
    plain = ["".join(c for c in heading.lower() if c in kept).replace(" ", "-") for heading in headings]
    times = [plain[:i].count(slug) for i, slug in enumerate(plain)]
    return {f"{slug}-{n}" if n else slug for slug, n in zip(plain, times, strict=True)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"[a-z][a-z+.-]*:", target):  # another site; the tests need no network
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in slugs(path)):
            dead.append(target)
    assert not dead


def models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a value of this type may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models(part)]


def sections() -> dict[str, dict[str, FieldInfo]]:
    """Heading in docs/recipes.md -> the keys that its table must have."""
    found: dict[str, dict[str, FieldInfo]] = {"Top level": {}}
    for name, field in Recipe.model_fields.items():
        choices = models(field.annotation)
        if not choices:
            found["Top level"][name] = field
        for model in choices:
            kind = f", {model.model_fields['name'].default.replace('-', ' ')}" if len(choices) > 1 else ""
            found[f"`[{name}]`{kind}"] = dict(model.model_fields)
    return found


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading of docs/recipes.md, without its first two lines."""
    _, _, rest = (DOCS / "recipes.md").read_text().partition(f"\n### {heading}\n")
    first = rest.partition("\n### ")[0].partition("\n|")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in row.split("|")] for row in ROW.findall("|" + first)][2:]


def default_of(field: FieldInfo) -> str:
    """A default as the docs have it."""
    if field.is_required():
        return "*needed*"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "*none*"
    return f"`{json.dumps(value)}`"  # TOML writes these values the same way


def literals(annotation: Any) -> list[str]:
    """The words that a setting may be."""
    parts = get_args(annotation)
    return [word for part in parts for word in ([part] if isinstance(part, str) else literals(part))]


@pytest.mark.parametrize("heading", sections())
def test_every_key_of_a_recipe_is_described_with_its_default_and_choices(heading: str) -> None:
    fields = sections()[heading]
    rows = {row[0].strip("`"): row for row in table(heading)}
    assert rows.keys() == fields.keys()
    for key, field in fields.items():
        assert rows[key][1] == default_of(field), key
        missing = [word for word in literals(field.annotation) if word not in str(rows[key])]
        assert not missing, key


def test_the_options_of_every_data_source_are_described() -> None:
    text = (DOCS / "recipes.md").read_text()
    for name, loader in SOURCES.items():
        (row,) = re.findall(rf"^\| `{name}` \|(.*)\|$", text, re.MULTILINE)
        written = set(re.findall(r"`(\w+(?: = [^`]+)?)`", row))  # what has no default, by its key
        defaults = {key: field.default for key, field in loader.options.model_fields.items()}
        assert written == {key if value is None else f"{key} = {value}" for key, value in defaults.items()}, name


def test_every_field_of_a_line_of_metrics_is_described() -> None:
    line = RoundRecord(1, 1, 0.0, 0, 0, 0, 0, 0, 0.0, 0, "accuracy", metric=0.5, metrics={"test": {"accuracy": 0.5}})
    line = dataclasses.replace(line, clipped=1, skipped=True, epsilon=1.0)  # written where there are any
    text = (DOCS / "recipes.md").read_text()
    described = text.partition("**`metrics.jsonl`**")[2].partition("**`ledger.jsonl`**")[0]
    assert {name for row in ROW.findall(described) for name in re.findall(r"`(\w+)`", row.split("|")[0])} == set(
        line.to_json()
    )
