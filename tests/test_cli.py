"""The command line as a user meets it: a whole run, its products, and one clear line for every mistake."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from igc import load_adapter
from igc.experiments.assemble import assemble
from igc.experiments.recipe import load
from igc.tasks.alignment import align_
from igc.tasks.linear import quicken_
from igc.tasks.text_classification import TextClassification
from support.command import Outcome, igc
from support.tiny import write_recipe

Command = Callable[..., Outcome]


@pytest.fixture
def run_igc(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return lambda *arguments: igc([str(argument) for argument in arguments], capsys, monkeypatch)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def finished(recipe: Path) -> Path:
    """A run of the tiny recipe, trained through the library."""
    from igc.experiments.progress import observer
    from igc.experiments.run import Run

    folder = recipe.parent / "finished"
    Run.create(load(recipe), folder).train(observer())
    return folder


def test_train_ends_with_a_table_and_writes_what_it_says(recipe: Path, tmp_path: Path, run_igc: Command) -> None:
    folder = tmp_path / "run"
    outcome = run_igc("train", recipe, "--out", folder, "--rounds", "6", "--dim", "32", "--set", "evaluation.every=3")
    assert outcome.code == 0, outcome.err
    assert "round 6/6" in outcome.err
    for name in ("recipe.toml", "metrics.jsonl", "ledger.jsonl", "summary.json", "plots", "checkpoints"):
        assert str(folder / name) in outcome.out
        assert (folder / name).exists()
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["round"] for record in records] == list(range(7))
    assert all(record.keys() >= {"round", "loss", "bytes_up", "bytes_down", "seconds"} for record in records)
    assert [record["round"] for record in records if "metric" in record] == [0, 3, 6]
    assert all(record["metric_name"] == "accuracy" for record in records if "metric" in record)
    summary = json.loads((folder / "summary.json").read_text())
    ledger = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    for way in ("up", "down"):
        by_client = sum(entry[way] for line in ledger for entry in line["clients"].values())
        assert by_client == summary[f"bytes_{way}"] == sum(record[f"bytes_{way}"] for record in records)
    assert summary["D"] == 20_418
    assert summary["d"] == 32
    assert summary["table"]["predicted_up"] == 6 * 4 * 32 * 4
    assert {path.suffix for path in (folder / "plots").iterdir()} == {".png", ".svg"}
    assert load(folder / "recipe.toml").method.dim == 32


def test_training_learns_something(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["best_metric"] > summary["initial_metric"]


def test_eval_repeats_the_metric_of_the_last_round(finished: Path, run_igc: Command) -> None:
    outcome = run_igc("eval", finished, "--json")
    summary = json.loads((finished / "summary.json").read_text())
    found = json.loads(outcome.out)
    assert found["round"] == 12
    assert found["metrics"] == summary["final_metrics"]
    assert "accuracy" in run_igc("eval", finished).out


def test_adapter_and_merged_model_reload_to_the_same_metric(finished: Path, tmp_path: Path, run_igc: Command) -> None:
    outcome = run_igc("export", finished, "--out", tmp_path)
    assert outcome.code == 0, outcome.err
    expected = json.loads((finished / "summary.json").read_text())["final_metrics"]["test"]
    experiment = assemble(load(finished / "recipe.toml"))
    examples = experiment.evaluation["test"]

    adapter = tmp_path / "adapter.safetensors"
    assert adapter.stat().st_size < 4 * 64 + 2000
    # Whoever reloads computes by PyTorch's own products of matrices, which round otherwise than a run's may.
    model = load_adapter(experiment.task.model(), adapter)
    assert experiment.task.evaluate(model, examples) == pytest.approx(expected, rel=1e-5)
    assert experiment.task.evaluate(quicken_(align_(model)), examples) == expected

    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert experiment.task.evaluate(quicken_(align_(merged.eval())), examples) == expected
    assert all(torch.equal(a, b) for a, b in zip(merged.parameters(), model.parameters(), strict=True))


def test_the_line_that_export_prints_reads_the_merged_model(finished: Path, tmp_path: Path, run_igc: Command) -> None:
    (line,) = [line for line in run_igc("export", finished, "--out", tmp_path).out.splitlines() if "merged" in line[:8]]
    code = line.split("); ")[1]
    program = f"path = {str(tmp_path / 'merged')!r}; {code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modes = {path.stat().st_mode for path in (tmp_path / "merged").iterdir()}
    assert len(modes) == 1, "somebody may read the config and not the weights"


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}"])
def test_resuming_mends_a_damaged_summary(damage: str, finished: Path, tmp_path: Path, run_igc: Command) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    (folder / "summary.json").write_text(damage)
    assert run_igc("resume", folder).code == 0
    whole, mended = (json.loads((path / "summary.json").read_text()) for path in (finished, folder))
    assert mended["final_metrics"] == whole["final_metrics"]
    assert run_igc("resume", folder).out.startswith(f"{folder} is finished")


def test_fedsgd_has_no_adapter_but_a_merged_model(recipe: Path, tmp_path: Path, run_igc: Command) -> None:
    folder = tmp_path / "run"
    assert run_igc("train", recipe, "--out", folder, "--method", "fedsgd", "--rounds", "2").code == 0
    outcome = run_igc("export", folder)
    assert outcome.code == 0
    assert "no adapter" in outcome.err
    assert (folder / "export" / "merged" / "config.json").exists()
    assert run_igc("export", folder, "--no-merged").code == 2


def test_the_default_folder_is_named_after_the_recipe_and_never_taken_twice(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_igc: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run_igc("train", recipe, "--rounds", "1").code == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["tiny", "tiny-2"]


def test_recipes_show_and_doctor_print(run_igc: Command) -> None:
    listing = run_igc("recipes")
    assert listing.code == 0
    assert "igc train shakespeare" in listing.out
    shown = run_igc("show", "movie-reviews", "--set", "method.dim=123")
    assert "dim = 123" in shown.out
    report = run_igc("doctor").out
    for word in ("python", "torch", "kernel", "cache", "pip", "dataset-fashion-mnist"):
        assert word in report


def fault(outcome: Outcome, *words: str) -> None:
    """Exit code 2, no traceback, one line with these words."""
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err
    line = outcome.err.strip().splitlines()[-1]
    assert line.startswith("igc: error: ") or "Error" in outcome.err, outcome.err
    for word in words:
        assert word in outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "movie-revews"], ["movie-revews", "did you mean 'movie-reviews'"]),
        (["train", "--set", "method.dims=3"], ["dims", "did you mean 'dim'"]),
        (["train", "--method", "statik"], ["statik", "static"]),
        (["train", "--set", "method.dim"], ["method.dim", "key=value"]),
        (["train", "nowhere/recipe.toml"], ["nowhere/recipe.toml"]),
        (["resume", "nowhere"], ["nowhere holds no run"]),
        (["eval", "nowhere"], ["nowhere holds no run"]),
        (["export", "nowhere"], ["nowhere holds no run"]),
        (["train", "--rounds", "many"], ["--rounds", "integer"]),
        (["trian"], ["trian"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_in_the_command(arguments: list[str], words: list[str], run_igc: Command) -> None:
    fault(run_igc(*arguments), *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": {"dim": 10**6}}, ["d = 1,000,000 exceeds D = 20,418"]),
        ({"federation": {"clients_per_round": 50}}, ["50", "12", "clients_per_round"]),
        ({"data": {"clients": 10**6}}, ["1000000", "160"]),
        ({"space": {"include": ["nothing.*"]}}, ["nothing.*"]),
        ({"space": {"exclude": ["*"]}}, ["nothing to train"]),
        ({"evaluation": {"splits": ["tset"]}}, ["tset", "did you mean 'test'"]),
        ({"device": "cuda:7"}, ["cuda:7", "--device cpu"]),
        ({"model": {"source": "/nowhere/at/all"}}, ["/nowhere/at/all"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_settings_that_do_not_fit_the_data_or_the_model(
    changes: dict[str, Any], words: list[str], recipe: Path, tmp_path: Path, run_igc: Command
) -> None:
    sets = [
        f"{section}.{key}={json.dumps(value)}" if isinstance(values, dict) else f"{section}={values}"
        for section, values in changes.items()
        for key, value in (values.items() if isinstance(values, dict) else [("", values)])
    ]
    arguments = [argument for text in sets for argument in ("--set", text)]
    fault(run_igc("train", recipe, "--out", tmp_path / "run", *arguments), *words)


def test_a_run_that_cannot_begin_leaves_nothing_in_the_way_of_the_next(
    recipe: Path, tmp_path: Path, run_igc: Command
) -> None:
    mine = tmp_path / "of mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    for folder in (tmp_path / "a run", mine):
        fault(run_igc("train", recipe, "--out", folder, "--dim", 10**6), "exceeds D")
        assert run_igc("train", recipe, "--out", folder, "--rounds", "1").code == 0
    assert (mine / "notes.txt").read_text() == "keep"


def test_names_that_no_file_system_takes(recipe: Path, tmp_path: Path, run_igc: Command) -> None:
    fault(run_igc("train", "x" * 300), "File name too long")
    fault(run_igc("train", recipe, "--out", tmp_path / ("x" * 300)), "File name too long", "--out")
    fault(run_igc("resume", tmp_path / ("x" * 300)), "File name too long")


def test_an_export_that_cannot_be_written_is_one_line(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_igc: Command
) -> None:
    (tmp_path / "adapter.safetensors").mkdir()
    fault(run_igc("export", finished, "--out", tmp_path, "--no-merged"), "adapter.safetensors", "--out")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TextClassification, "save_merged", full)
    fault(run_igc("export", finished, "--out", tmp_path, "--no-adapter"), "merged: No space left on device")


def test_a_folder_that_holds_a_run_is_left_alone(recipe: Path, finished: Path, run_igc: Command) -> None:
    before = (finished / "summary.json").read_bytes()
    fault(run_igc("train", recipe, "--out", finished), "already holds a run", "igc resume")
    assert (finished / "summary.json").read_bytes() == before


def test_more_clients_a_round_than_there_are_is_refused(recipe: Path, tmp_path: Path, run_igc: Command) -> None:
    rows = "\n".join(f"good film {i},{i % 2},ann" for i in range(140))
    data = tmp_path / "data.csv"
    data.write_text(f"text,label,client\n{rows}\n")
    sets = [f"data.path={data}", "data.partition=natural", "federation.clients_per_round=2"]
    arguments = [argument for text in sets for argument in ("--set", text)]
    natural = tmp_path / "natural.toml"
    text = recipe.read_text().replace("clients = 12\n", "")
    natural.write_text(text)
    fault(run_igc("train", natural, "--out", tmp_path / "run", *arguments), "2 clients a round cannot be drawn from 1")


def test_a_loss_that_is_not_finite_names_client_and_round_or_is_skipped(
    recipe: Path, tmp_path: Path, run_igc: Command
) -> None:
    diverge = ["--set", "optimizer.name=sgd", "--set", "optimizer.learning_rate=1e30", "--rounds", "4"]
    stopped = run_igc("train", recipe, "--out", tmp_path / "stop", *diverge)
    fault(stopped, "client 'client-", "round 2", "the loss is nan", "non_finite")
    assert "after round 1" in run_igc("eval", tmp_path / "stop").out, "the round that went well was not saved"
    skipped = run_igc("train", recipe, "--out", tmp_path / "skip", *diverge, "--set", "federation.non_finite=skip")
    assert skipped.code == 0, skipped.err
    assert "left out client 'client-" in skipped.err
    last = json.loads((tmp_path / "skip" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["rejected"] == 4


@pytest.mark.parametrize(
    "settings",
    [
        "method.name=time-varying method.rounds_per_epoch=3 codec.up=eden-1 codec.down=eden-4",
        "method.name=k-subspace",
        "method.name=k-subspace-time-varying method.rounds_per_epoch=3",
        "model.lora_rank=2 local.learning_rate=0.1 local.batch_size=3",
    ],
)
def test_whatever_trains_exports_to_the_same_metric(
    settings: str, recipe: Path, tmp_path: Path, run_igc: Command
) -> None:
    folder = tmp_path / "run"
    sets = [argument for text in settings.split() for argument in ("--set", text)]
    assert run_igc("train", recipe, "--out", folder, "--rounds", "6", *sets).code == 0
    assert run_igc("export", folder, "--no-merged").code == 0
    expected = json.loads((folder / "summary.json").read_text())["final_metrics"]["test"]
    experiment = assemble(load(folder / "recipe.toml"))
    # The experiment's own base model: layers as in training, so that the bits are the same on every processor.
    model = load_adapter(experiment.model, folder / "export" / "adapter.safetensors")
    assert experiment.task.evaluate(model, experiment.evaluation["test"]) == expected


def test_an_export_of_nothing_is_refused(finished: Path, run_igc: Command) -> None:
    fault(run_igc("export", finished, "--no-adapter", "--no-merged"), "nothing to write")


def test_the_simulation_without_its_extra_leaves_no_folder(
    recipe: Path, tmp_path: Path, run_igc: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    out = tmp_path / "run"
    fault(run_igc("train", recipe, "--engine", "flower-sim", "--out", out), "flower-sim", "pip install")
    assert not out.exists()


@pytest.mark.parametrize("command", ["train", "show", "compare", "dimension", "tune", "resume", "export"])
def test_help_says_what_arguments_are(command: str, run_igc: Command) -> None:
    """Some pairs of Typer and Click leave it out."""
    shown = " ".join(run_igc(command, "--help").out.split())
    assert "shipped recipe" in shown or "The folder of a run" in shown


def test_the_version(run_igc: Command) -> None:
    assert run_igc("--version").out == f"igc {version('intrinsic-gradient-compression')}\n"


def test_a_client_without_a_usable_example_is_named(recipe: Path, tmp_path: Path, run_igc: Command) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in ("ann", "bob"):
        (texts / f"{name}.txt").write_text("the good film was great\n" * 20)
    (texts / "eve.txt").write_text("   \n\n")
    natural = recipe.with_name("texts.toml")
    natural.write_text(
        recipe.read_text()
        .replace('source = "text-classification-file"', 'source = "text-files"')
        .replace('partition = "iid"\nclients = 12\n', "")
        .replace("[data.options]\ntest = 60\nvalidation = 20\n", "")
    )
    sets = ["--set", f"data.path={texts}"]
    fault(run_igc("train", natural, "--out", tmp_path / "run", *sets), "eve")


def test_more_subspaces_than_dimensions_are_refused(recipe: Path, tmp_path: Path, run_igc: Command) -> None:
    sets = ["--method", "k-subspace", "--set", "method.subspaces=1000000000"]
    fault(run_igc("train", recipe, "--out", tmp_path / "run", *sets), "more than the model's 20,418")


def test_a_run_means_the_same_from_every_folder(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_igc: Command
) -> None:
    monkeypatch.chdir(recipe.parent)
    near = recipe.with_name("near.toml")
    near.write_text(recipe.read_text().replace(str(recipe.parent) + "/", ""))
    folder = tmp_path / "run"
    assert run_igc("train", near, "--out", folder, "--rounds", "1").code == 0
    monkeypatch.chdir(tmp_path)
    assert run_igc("eval", folder).code == 0


def test_a_finished_run_goes_on_when_its_rounds_are_raised(recipe: Path, tmp_path: Path, run_igc: Command) -> None:
    folder = tmp_path / "run"
    assert run_igc("train", recipe, "--out", folder, "--rounds", "3").code == 0
    text = (folder / "recipe.toml").read_text()
    (folder / "recipe.toml").write_text(text.replace("rounds = 3", "rounds = 5"))
    outcome = run_igc("resume", folder)
    assert outcome.code == 0, outcome.err
    assert "goes on after round 3" in outcome.err
    assert json.loads((folder / "summary.json").read_text())["rounds"] == 5


@pytest.mark.parametrize(
    ("old", "new"), [("seed = 5", "seed = 6"), ("clients = 12", "clients = 11"), ('name = "adam"', 'name = "sgd"')]
)
def test_what_a_run_stands_on_cannot_be_changed_half_way(
    old: str, new: str, finished: Path, tmp_path: Path, run_igc: Command
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "summary.json").unlink()
    text = (folder / "recipe.toml").read_text()
    assert old in text
    lines = [
        line for line in text.replace(old, new).splitlines() if "sgd" not in new or not line.startswith(("beta", "eps"))
    ]
    (folder / "recipe.toml").write_text("\n".join(lines) + "\n")
    fault(run_igc("resume", folder), "made by another recipe")


def test_brackets_in_a_folders_name_are_text(finished: Path, tmp_path: Path, run_igc: Command) -> None:
    folder = shutil.copytree(finished, tmp_path / "run [" / "x] [b]")
    assert f"{folder} after round" in run_igc("eval", folder).out.splitlines()[0]  # long, and not folded


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_how_much_is_held_out_is_a_finite_number(value: str, recipe: Path, tmp_path: Path, run_igc: Command) -> None:
    outcome = run_igc("train", recipe, "--set", f"data.options.validation={value}", "--out", tmp_path / "run")
    fault(outcome, "options.validation: Input should be a finite number")
    assert not (tmp_path / "run").exists()
