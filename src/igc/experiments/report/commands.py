"""`igc report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_OR_COMPARISON...", help="Folders of runs, comparisons and tunings, in any mixture."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The page; report.html by default, in the folder where there is one only."),
    ] = None,
) -> None:
    """Make a page to look at: metric for bytes, curves, bandwidth predicted and measured, recipe and versions.

    One HTML file without scripts that needs no network, and each plot as PNG and SVG beside it. Runs that are not
    finished are shown as far as they are.
    """
    from igc.errors import RunError
    from igc.experiments.format import format_bytes
    from igc.experiments.report.page import write
    from igc.experiments.report.read import read
    from igc.experiments.report.words import headline

    page = out or (folders[0] if len(folders) == 1 else Path()) / "report.html"
    if page.is_dir():
        raise RunError(f"{page} is a folder; name a file, such as --out {page / 'report.html'}")
    groups = read(folders)
    written = write(groups, page)
    console = Console()
    for group in groups:
        console.print(f"{group.title}: {headline(group)}", markup=False, highlight=False, soft_wrap=True)
    size = format_bytes(page.stat().st_size)
    plots = (
        f"{len(written) - 1} files in {written[1].parent}" if len(written) > 1 else "none, nothing was evaluated yet"
    )
    console.print(f"page   {page}  ({size})", markup=False, highlight=False, soft_wrap=True)
    console.print(f"plots  {plots}", markup=False, highlight=False, soft_wrap=True)
