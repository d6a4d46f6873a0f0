"""The command line: parse, call, print."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from igc.deployment.commands import app as deploy
from igc.deployment.commands import federation, simulator
from igc.errors import IgcError
from igc.experiments.bench.commands import app as bench
from igc.experiments.compare.commands import compare
from igc.experiments.dimension.commands import dimension
from igc.experiments.report.commands import report
from igc.experiments.tune.commands import tune

if TYPE_CHECKING:
    from igc.experiments.progress import Observer
    from igc.experiments.run import Run

# Heavy imports (torch, transformers) wait in the commands that need them, so that --help and typing errors are instant.

app = typer.Typer(
    name="igc",
    help="Train models across many clients that each send and receive kilobytes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DEFAULT_RECIPE = "movie-reviews"


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"igc {version('intrinsic-gradient-compression')}")
        raise typer.Exit


@app.callback()
def _igc(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


RecipeArgument = Annotated[str, typer.Argument(help="A shipped recipe (see `igc recipes`) or a TOML file.")]
RunArgument = Annotated[Path, typer.Argument(help="The folder of a run.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change any setting, e.g. federation.batch_size=16."),
]


EngineOption = Annotated[
    Literal["here", "flower-sim"],
    typer.Option(help="What carries messages: this process, or Flower's simulation over the processes of Ray."),
]

TensorBoardOption = Annotated[
    bool, typer.Option("--tensorboard", help="Also write RUN/tensorboard (needs the extra tensorboard).")
]


@app.command()
def train(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    settings: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; runs/RECIPE by default.")] = None,
    method: Annotated[str | None, typer.Option(help="Short for --set method.name=...")] = None,
    dim: Annotated[int | None, typer.Option(help="Short for --set method.dim=...")] = None,
    rounds: Annotated[int | None, typer.Option(help="Short for --set federation.rounds=...")] = None,
    seed: Annotated[int | None, typer.Option(help="Short for --set seed=...")] = None,
    device: Annotated[str | None, typer.Option(help="Short for --set device=...")] = None,
    engine: EngineOption = "here",
    tensorboard: TensorBoardOption = False,
) -> None:
    """Train by a recipe; alone, `movie-reviews`: local steps in one subspace, one bit a number up."""
    from igc.experiments.recipe import load
    from igc.experiments.run import Run

    short = {"method.name": method, "method.dim": dim, "federation.rounds": rounds, "seed": seed, "device": device}
    overrides = [*(settings or []), *(f"{key}={value}" for key, value in short.items() if value is not None)]
    chosen = load(recipe, overrides)
    watch = _observer(tensorboard=tensorboard)
    if engine == "flower-sim":
        simulator()  # what is missing comes out before a folder is made
    _train(Run.create(chosen, out or _free_folder(Path(recipe).stem)), engine, watch)


@app.command()
def resume(run: RunArgument, engine: EngineOption = "here", tensorboard: TensorBoardOption = False) -> None:
    """Go on with a run that was stopped, from its newest checkpoint."""
    from igc.experiments.recipe import RECIPE
    from igc.experiments.run import Run

    opened = Run.open(run)
    if opened.is_finished:
        more = f"for more rounds, raise federation.rounds in {run / RECIPE}, then resume"
        _out().print(f"{run} is finished; nothing to resume ({more}).", markup=False, highlight=False, soft_wrap=True)
        _print_summary(opened.summary, run)
        return
    _train(opened, engine, _observer(tensorboard=tensorboard))


@app.command(name="eval")
def evaluate(
    run: RunArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Evaluate a run's newest checkpoint."""
    from igc.experiments.format import format_metric
    from igc.experiments.run import Run

    experiment = Run.open(run).restore(_warn)
    scores = experiment.evaluate()
    if as_json:
        finite = {s: {n: v if math.isfinite(v) else None for n, v in values.items()} for s, values in scores.items()}
        _out().print_json(json.dumps({"round": experiment.server.round, "metrics": finite}))
        return
    # Not the table's own title, which would be wrapped to the width of the table.
    _out().print(Text(f"{run} after round {experiment.server.round}", style="table.title"), soft_wrap=True)
    table = Table(box=None)
    table.add_column("split")
    names = list(next(iter(scores.values())))
    for name in names:
        table.add_column(name, justify="right")
    for split, values in scores.items():
        table.add_row(Text(split), *(format_metric(values[name]) for name in names))
    _out().print(table)


@app.command()
def export(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(help="Where to write; RUN/export by default.")] = None,
    adapter: Annotated[bool, typer.Option(help="Write the adapter: seed and sigma, a few kilobytes.")] = True,
    merged: Annotated[bool, typer.Option(help="Write the merged model in Hugging Face format.")] = True,
) -> None:
    """Write the trained model: as an adapter of a few kilobytes, and merged."""
    from igc.errors import AdapterError, RunError
    from igc.experiments.export import export_adapter, export_merged
    from igc.experiments.format import format_bytes
    from igc.experiments.run import Run

    if not (adapter or merged):
        raise RunError("nothing to write with both --no-adapter and --no-merged; leave one of them out")
    experiment = Run.open(run).restore(_warn)
    folder = out or run / "export"
    if adapter:
        try:
            path = export_adapter(experiment, folder)
        except AdapterError as error:
            if not merged:
                raise
            _warn(str(error))
        else:
            _say(f"adapter  {path}  ({format_bytes(path.stat().st_size)}); igc.load_adapter(model, path)")
    if merged:
        path = export_merged(experiment, folder)
        size = sum(file.stat().st_size for file in path.iterdir())
        _say(f"merged   {path}  ({format_bytes(size)}); {experiment.task.reads_merged}")


@app.command()
def recipes() -> None:
    """List the recipes that come with igc."""
    from igc.experiments.recipe import shipped

    for recipe in shipped():
        _out().print(Text(recipe.command, style="bold"))
        _out().print(Padding(Text(recipe.about, style="dim"), (0, 0, 0, 4)))


@app.command()
def show(recipe: RecipeArgument = DEFAULT_RECIPE, settings: SetOption = None) -> None:
    """Print a recipe with every default spelled out; save it, change it, and `igc train FILE.toml`."""
    from igc.experiments.recipe import load

    text = load(recipe, settings or []).to_toml().rstrip()
    console = _out()
    if console.is_terminal:
        console.print(Syntax(text, "toml", background_color="default"))
    else:
        sys.stdout.write(text + "\n")


@app.command()
def doctor() -> None:
    """Say what this machine offers, what is missing, and how to mend it."""
    from igc.experiments.doctor import examine

    table = Table(box=None, show_header=False, pad_edge=False)
    marks = {True: Text("ok", style="green"), False: Text("!!", style="bold red"), None: Text("--", style="dim")}
    well = True
    for finding in examine():
        well = well and finding.well is not False
        table.add_row(marks[finding.well], finding.what, Text(finding.found, overflow="fold"))
    _out().print(table)
    if not well:
        raise typer.Exit(1)


app.add_typer(bench)
app.add_typer(deploy)
app.add_typer(federation)
app.command()(compare)
app.command()(dimension)
app.command()(report)
app.command()(tune)


def main() -> None:
    """Entry point: errors that a user can mend end in one line and exit code 2."""
    try:
        app()
    except IgcError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted", style="yellow")
        raise SystemExit(130) from None


def _observer(*, tensorboard: bool) -> Observer:
    from igc.experiments.progress import observer

    if not tensorboard:
        return observer()
    from igc.experiments.tensorboard import TensorBoardObserver

    return TensorBoardObserver(observer())


def _train(run: Run, engine: str, watch: Observer) -> None:
    try:
        summary = simulator()(run, watch) if engine == "flower-sim" else run.train(watch)
    except KeyboardInterrupt:
        _warn(f"interrupted; go on with: igc resume {quote(str(run.folder))}")
        raise SystemExit(130) from None
    _print_summary(summary, run.folder)


def _print_summary(summary: dict[str, Any], folder: Path) -> None:
    from igc.experiments.contents import CHECKPOINTS
    from igc.experiments.metrics import LEDGER, METRICS
    from igc.experiments.recipe import RECIPE
    from igc.experiments.report.table import summary_table
    from igc.experiments.run import PLOTS, SUMMARY

    paths = {
        "recipe as run": folder / RECIPE,
        "metrics": folder / METRICS,
        "bytes by client": folder / LEDGER,
        "summary": folder / SUMMARY,
        "plots": folder / PLOTS,
        "checkpoints": folder / CHECKPOINTS,
    }
    _out().print(summary_table(summary, paths))
    _say(f"\nnext: igc eval {quote(str(folder))}   igc export {quote(str(folder))}")


def _free_folder(name: str) -> Path:
    """runs/NAME, or the first of runs/NAME-2, runs/NAME-3, ... that is free."""
    folder, number = Path("runs") / name, 2
    while folder.exists():
        folder, number = Path("runs") / f"{name}-{number}", number + 1
    return folder


def _out() -> Console:
    return Console()


def _say(text: str) -> None:
    _out().print(text, markup=False, highlight=False, soft_wrap=True)


def _warn(text: str) -> None:
    Console(stderr=True).print(Text.assemble(("warning: ", "yellow"), text), soft_wrap=True)


def _fail(text: str) -> None:
    Console(stderr=True).print(Text.assemble(("igc: error: ", "bold red"), text), soft_wrap=True)
    raise SystemExit(2)
