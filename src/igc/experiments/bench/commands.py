"""`igc bench`: commands only."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(name="bench", help="Measure this machine: projection, engine, memory.", no_args_is_help=True)

_PICTURES = (".svg", ".png", ".pdf")

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


class Device(StrEnum):
    """Where to measure."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"


class Dtype(StrEnum):
    """Of gradients and parameters."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@app.command()
def projection(
    params: Annotated[int, typer.Option(min=1, help="D, parameters; GPT-2 small's by default.")] = 124_439_808,
    dim: Annotated[int, typer.Option(min=1, help="d, the intrinsic dimension.")] = 16_384,
    block: Annotated[int, typer.Option(min=0, help="n, a power of two; 0: chosen from d.")] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions whose median is taken.")] = 15,
    every_rival: Annotated[
        bool, typer.Option("--all", help="Also Fastfood, in blocks and padded: 18 s each and 7 GB at D = 124M.")
    ] = False,
    device: Annotated[Device, typer.Option(help="auto: a GPU if there is one.")] = Device.CPU,
    dtype: Annotated[Dtype, typer.Option(help="Of the gradient and the parameters.")] = Dtype.FLOAT32,
    plot: Annotated[Path | None, typer.Option(help="Draw the figures to this file (.svg, .png, .pdf).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Project and add-expanded, beside reading the gradient, a copy, x += y, the PyTorch reference and rivals."""
    import torch

    from igc.experiments.assemble import choose_device
    from igc.experiments.bench import projection as measured
    from igc.experiments.memory import enough_memory

    if plot is not None and plot.suffix.lower() not in _PICTURES:  # now, not after minutes of measuring
        raise typer.BadParameter(f"'{plot}' ends in none of {', '.join(_PICTURES)}", param_hint="--plot")
    where = choose_device(device.value)
    with enough_memory("lower --params or --dim"):
        figures = measured.bench(params, dim, block, repeats, every_rival, where, getattr(torch, dtype.value))
    _print(figures, as_json)
    if plot is not None:
        from igc.experiments.bench.plot import draw

        draw(figures, plot)


@app.command()
def engine(
    client: Annotated[bool, typer.Option("--client", help="A client's overhead over plain gradients instead.")] = False,
    clients: Annotated[int, typer.Option(min=1, help="Clients of a round.")] = 64,
    snippets: Annotated[int, typer.Option(min=1, help="Examples of a client.")] = 4,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Rounds (3), or a client's batches (9), whose median is taken.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """A round of movie-review clients one by one, and fused into one batch."""
    from igc.experiments.bench import engine as measured

    figures = (
        measured.bench_client(repeats=repeats or 9)
        if client
        else measured.bench("movie-reviews-static", clients, snippets, repeats or 3)
    )
    _print(figures, as_json)


@app.command()
def memory(
    params: Annotated[
        int | None, typer.Option(min=8, help="A synthetic model so large; by default SmolLM2-135M.")
    ] = None,
    dim: Annotated[int, typer.Option(min=1, help="d, the intrinsic dimension.")] = 16_384,
    as_json: JsonOption = False,
) -> None:
    """Peak memory of forward and backward: all gradients kept, and each projected as it is born."""
    from igc.experiments.bench import memory as measured

    _print(measured.bench(params, dim), as_json)


def _print(figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in _flat(figures):
        table.add_row(
            name,
            f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value),
        )
    Console().print(table)


def _flat(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in figures.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return rows
