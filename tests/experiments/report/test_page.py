"""The page of a report: what it says, and what a browser makes of it."""

from __future__ import annotations

import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from igc.experiments.compare import JSON
from igc.experiments.compare.campaign import Terms
from igc.experiments.compare.comparison import compare
from igc.experiments.compare.entrants import entrants
from igc.experiments.compare.one import Silent
from igc.experiments.recipe import load
from igc.experiments.report.page import _common, write
from igc.experiments.report.read import read
from igc.experiments.run import Run
from support.browser import CHROMIUM, Visit, picture, visit
from support.in_this_process import InThisProcess
from support.tiny import write_recipe

in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt install chromium)")
METHODS = ["static", "time-varying", "k-subspace", "fedsgd", "static-1bit"]


class Rows(HTMLParser):
    """The rows of tables: (class of the table, method) -> what stands in each cell that has a key."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[tuple[str, str], dict[str, Any]] = {}
        self._table, self._method, self._key = "", "", ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "table":
            self._table = values["class"]
        elif tag == "tr" and "data-method" in values:
            self._method = values["data-method"]
            self.found[self._table, self._method] = {}
        elif tag == "td":
            self._key = values.get("data-key", "")
        elif tag == "data" and self._key:
            self.found[self._table, self._method].setdefault(self._key, json.loads(values["value"]))


def rows(html: str) -> dict[tuple[str, str], dict[str, Any]]:
    parser = Rows()
    parser.feed(html)
    return parser.found


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    base = load(write_recipe(tmp_path_factory.mktemp("tiny"), federation={"rounds": 4}, evaluation={"every": 1}))
    compare(base, entrants(METHODS), Terms(4, None, 2, 1, "test", None), folder, InThisProcess(), 1, lambda *_: None)
    return folder


@pytest.fixture(scope="module")
def page(comparison: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "report.html"
    write(read([comparison]), out)
    return out


@pytest.fixture(scope="module")
def seen(page: Path) -> Visit:
    return visit(page)


def test_the_recipe_of_a_page_keeps_names_of_tensors(tmp_path: Path) -> None:
    """They hold dots, as settings' keys do; what all runs have in common can be given to `igc train`."""
    budgets = {"*attention.*": 4, "*.weight": 16}
    recipe = write_recipe(tmp_path / "tiny", federation={"rounds": 1}, method={"dim": 8, "budgets": budgets})
    for seed in (1, 2):
        Run.create(load(recipe, [f"seed={seed}"]), tmp_path / str(seed)).train(Silent())
    groups = read([tmp_path / "1", tmp_path / "2"])
    shown = tomllib.loads(_common(groups[0]))
    assert "seed" not in shown
    assert list(shown["method"]["budgets"].items()) == list(budgets.items())
    (folder := tmp_path / "again").mkdir()
    (folder / "recipe.toml").write_text(_common(groups[0]))
    assert load(folder / "recipe.toml", ["seed=1"]) == Run.open(tmp_path / "1").recipe


def test_the_page_and_its_plots_are_files(page: Path) -> None:
    names = {path.name for path in page.with_name("report-plots").iterdir()}
    expected = {"pareto", "metric-vs-rounds", "metric-vs-bytes", "loss-vs-rounds"}
    assert names == {f"{name}.{kind}" for name in expected for kind in ("png", "svg")}
    for path in page.with_name("report-plots").glob("*.png"):
        assert imread(path).std() > 0.01


def test_nothing_comes_from_elsewhere(page: Path) -> None:
    html = page.read_text()
    assert not re.findall(r"https?:|//[a-z]|<script|<link(?! rel=\"icon\" href=\"data:)|@import|xlink", html)
    assert set(re.findall(r"url\(([^)]*)\)", html)) <= {f"#{name}" for name in re.findall(r' id="([^"]*)"', html)}
    assert "default-src 'none'" in html


def test_it_says_what_made_the_runs(page: Path) -> None:
    said = dict(re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", page.read_text()))
    assert said["computed on"] == "CPU"
    assert said["torch"] == torch.__version__


def test_ids_are_given_once_and_pictures_have_words(page: Path) -> None:
    html = page.read_text()
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    pictures = re.findall(r'<svg [^>]*role="img" aria-labelledby="(\S+) (\S+)">', html)
    assert len(pictures) == 8
    for title, description in pictures:
        assert re.search(f'<title id="{title}">[^<]+</title><desc id="{description}">[^<]*static[^<]*</desc>', html)


def test_what_it_says_of_bandwidth_is_the_formula_and_the_ledger(comparison: Path, page: Path) -> None:
    found = rows(page.read_text())
    for line in json.loads((comparison / JSON).read_text()):
        messages, spent = {"up": 0, "down": 0}, {"up": 0, "down": 0}
        for run in line["runs"]:
            for text in (comparison / run / "ledger.jsonl").read_text().splitlines():
                for client in json.loads(text)["clients"].values():
                    for way in messages:
                        messages[way] += client[way] > 0
                        spent[way] += client[way]
        row = found["bandwidth", line["method"]]
        for way, count in messages.items():
            assert row[f"measured_{way}"] == spent[way] / count
    d, D = 64, read([comparison])[0].entries[0].runs[0].summary
    assert D is not None
    expected = {"static": (d, d), "time-varying": (d, 2 * d), "k-subspace": (d, 4 * d), "fedsgd": (D["D"], D["D"])}
    for method, numbers in expected.items():
        row = found["bandwidth", method]
        assert (row["predicted_up"], row["predicted_down"]) == tuple(4 * number for number in numbers)
    assert found["bandwidth", "static-1bit"]["predicted_up"] < d  # bytes: a bit a number, and a scale


@in_chromium
def test_the_table_in_the_browser_is_comparison_json(comparison: Path, seen: Visit) -> None:
    found = rows(seen.dom)
    lines = json.loads((comparison / JSON).read_text())
    assert {method for table, method in found if table == "results"} == {line["method"] for line in lines}
    for line in lines:
        row = found["results", line["method"]]
        for key in ("metric", "bytes_up", "bytes_down", "factor", "rounds", "seconds"):
            assert row[key] == line[key], key
        assert row["total"] == line["bytes_up"] + line["bytes_down"]


@in_chromium
def test_the_browser_has_nothing_to_complain_of(seen: Visit) -> None:
    assert not seen.console
    assert seen.dom.rstrip().endswith("</html>")


@in_chromium
def test_a_browser_that_is_refused_a_script_says_so(page: Path, tmp_path: Path) -> None:
    """The check above can fail: a page with a script, an error and a picture from elsewhere is found out."""
    broken = tmp_path / "broken.html"
    broken.write_text(
        page.read_text().replace("</body>", "<img src='https://example.org/a.png'><script>1</script></body>")
    )
    assert len(visit(broken).console) >= 2


@in_chromium
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_runs_over_the_edge(page: Path, tmp_path: Path, width: int) -> None:
    """A frame of that width holds the page; a script outside the page reads how wide the page would like to be."""
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    framed = tmp_path / "framed.html"
    inner = html.replace("&", "&amp;").replace('"', "&quot;")
    script = (
        "<script>onload=()=>{const e=frames[0].document.documentElement;"
        "document.body.dataset.wide=e.scrollWidth;document.body.dataset.given=e.clientWidth;"
        "const m=[...frames[0].document.querySelectorAll('svg[role=img]')].filter(s=>s.getClientRects().length);"
        "document.body.dataset.pictures=m.length}</script>"
    )
    framed.write_text(
        f'<!DOCTYPE html><body><iframe style="border:0;width:{width}px;height:800px" srcdoc="{inner}"></iframe>{script}'
    )
    dom = visit(framed).dom
    given = {key: int(value) for key, value in re.findall(r'data-(wide|given|pictures)="(\d+)"', dom)}
    assert given["wide"] <= given["given"] <= width
    assert given["pictures"] == 4  # of each plot, the drawing for this width


@in_chromium
def test_dark_is_dark_and_the_same_page(page: Path, tmp_path: Path) -> None:
    light = imread(picture(page, tmp_path / "light.png", 1200, 900))[..., :3]
    dark = imread(picture(page, tmp_path / "dark.png", 1200, 900, dark=True))[..., :3]
    assert light.shape == dark.shape
    assert np.median(light) > 0.9
    assert np.median(dark) < 0.2
    # The same things in the same places: where one has an edge, so has the other.
    edges = [np.abs(np.diff(image.mean(axis=2), axis=1)) > 0.05 for image in (light, dark)]
    assert (edges[0] == edges[1]).mean() > 0.95
