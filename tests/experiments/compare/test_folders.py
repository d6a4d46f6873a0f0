"""Folders of runs: one is never taken for another, and what is there is found again."""

from __future__ import annotations

from pathlib import Path

from igc.experiments.compare.folders import folder_of, method_folders
from igc.experiments.recipe import Recipe, load
from igc.experiments.run import Run

BASE = load("movie-reviews")


def splits(*names: str) -> Recipe:
    return BASE.model_copy(update={"evaluation": BASE.evaluation.model_copy(update={"splits": names})})


def test_a_run_of_another_recipe_is_passed_by_and_both_are_found_again(tmp_path: Path) -> None:
    first, second, third = splits("test"), splits("test", "validation"), splits("validation")
    folders = [Run.create(recipe, folder_of(tmp_path, "static", "run", recipe)).folder for recipe in (first, second)]
    folders.append(folder_of(tmp_path, "static", "run", third))
    assert [folder.name for folder in folders] == ["run", "run-2", "run-3"]
    assert folder_of(tmp_path, "static", "run", second) == folders[1]
    assert folder_of(tmp_path, "static", "run", first) == folders[0]


def test_a_run_that_was_evaluated_on_more_serves(tmp_path: Path) -> None:
    more = Run.create(splits("test", "validation"), folder_of(tmp_path, "static", "run", splits("test", "validation")))
    assert folder_of(tmp_path, "static", "run", splits("test")) == more.folder
    assert folder_of(tmp_path, "static", "run", splits("validation", "test")) != more.folder
    fewer = splits("test").evaluation.model_copy(update={"max_examples": 7})
    assert folder_of(tmp_path, "static", "run", BASE.model_copy(update={"evaluation": fewer})) != more.folder


def test_names_that_a_file_system_cannot_have_are_told_apart(tmp_path: Path) -> None:
    star, mark = ('static+method.full=["*x"]', 'static+method.full=["?x"]')
    assert method_folders(star)[-1] != method_folders(mark)[-1]
    assert method_folders("static+method.dim=64") == ("static+method.dim=64",)
    # As it was called before there were digests, and is still found.
    old = tmp_path / "static+method.full=---x--" / "run"
    assert folder_of(tmp_path, star, "run", BASE) == tmp_path / method_folders(star)[-1] / "run"
    Run.create(BASE, old)
    assert folder_of(tmp_path, star, "run", BASE) == old
    assert folder_of(tmp_path, mark, "run", splits("validation")) == tmp_path / method_folders(mark)[-1] / "run"


def test_a_name_of_any_length_has_a_folder_of_its_own(tmp_path: Path) -> None:
    long = "static+" + "+".join(f"method.budgets.layer{i}=1024" for i in range(40))
    folders = {method_folders(long + end)[-1] for end in ("", "0", "-")}
    assert len(folders) == 3
    for folder in folders:
        (tmp_path / folder).mkdir()
