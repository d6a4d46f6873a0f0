"""The page: everything in one file, nothing from the network, no script."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any, Final

import tomli_w
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from igc.experiments.atomic import AGAIN, write_atomically
from igc.experiments.format import format_bytes, format_duration, format_metric
from igc.experiments.report import plots, words
from igc.experiments.report.bandwidth import costs
from igc.experiments.report.look import FIXED, STYLES, shape, styles
from igc.experiments.report.plots import FILE, NARROW, WIDE, Plot
from igc.experiments.report.read import Entry, Group, RunLog, flat
from igc.experiments.report.svg import inline

_COLOURS: Final[Mapping[str, str]] = {
    light: f"var(--{name})" for name, light in [*FIXED, *((style.variable, style.light) for style in STYLES)]
}
_NONE: Final = "\N{EN DASH}"


@dataclass(frozen=True)
class Picture:
    """A plot on the page: its title, and two drawings of which CSS shows the one that fits."""

    title: str
    wide: Markup
    narrow: Markup


def write(groups: Sequence[Group], out: Path) -> list[Path]:
    """Write the page, and each plot as PNG and SVG into a folder beside it, ``STEM-plots``.

    Args:
        groups: as `read` gives them.
        out: the page.

    Returns:
        What was written, the page first.

    Raises:
        RunError: a file cannot be written.
    """
    folder = out.with_name(f"{out.stem}-plots")
    sections, written = [], []
    taken: set[str] = set()
    for group in groups:
        slug = _slug(group.title, taken) if len(groups) > 1 else ""
        section, drawn = _section(group, slug)
        sections.append(section)
        for plot in drawn:
            for kind, data in (("png", plot.png(FILE)), ("svg", plot.svg(FILE))):
                written.append(folder / f"{plot.name}.{kind}")
                write_atomically(written[-1], data, then=AGAIN)
    write_atomically(out, _render(groups, sections), then=AGAIN)
    return [out, *written]


def _render(groups: Sequence[Group], sections: Sequence[Mapping[str, Any]]) -> str:
    environment = Environment(
        loader=PackageLoader("igc.experiments.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "metric": format_metric,
        "size": _size,
        "times": _factor,
        "span": format_duration,
        "percent": _percent,
        "count": lambda value: f"{value:,}",
        "raw": _raw,
        "breakable": lambda name: Markup("+<wbr>").join(name.split("+")),
    }
    template = environment.get_template("page.html.jinja")
    return template.render(
        title=_and([group.title for group in groups]),
        sections=sections,
        styles=STYLES,
        fixed=dict(FIXED),
        version=importlib.metadata.version("intrinsic-gradient-compression"),
        now=datetime.now(UTC),
        live=any(entry.going for group in groups for entry in group.entries),
    )


def _section(group: Group, slug: str) -> tuple[dict[str, Any], list[Plot]]:
    looks = styles(group.entries)
    drawn: list[Plot] = []

    def picture(plot: Plot) -> Picture:
        drawn.append(plot)
        wide, narrow = (
            inline(plot.svg(form), f"{plot.name}-{width}", plot.title, plot.description, _COLOURS)
            for form, width in ((WIDE, "wide"), (NARROW, "narrow"))
        )
        return Picture(plot.title, Markup(wide), Markup(narrow))  # our own drawing; texts in it are escaped

    def name(*parts: str) -> str:
        return "-".join(part for part in (slug, *parts) if part)

    best = plots.frontier(group.entries, higher_is_better=group.higher_is_better)
    measured = any(point.total > 0 for entry in group.entries for point in plots.course(entry))
    section: dict[str, Any] = {
        "id": slug or "report",
        "group": group,
        "headline": words.headline(group),
        "caveats": words.caveats(group),
        "pareto": picture(plots.pareto(group, looks, name("pareto"))) if measured else None,
        "best": best,
        "legend": [(n, look, shape(look), _about(group, n)) for n, look in _in_order(group, looks)],
        "blocks": [],
        "costs": costs(group.entries),
        "recipe": _common(group),
        "differences": _differences(group),
        "versions": _versions(group),
        "sizes": _sizes(group),
    }
    budgets = group.budgets
    for budget, entries in budgets.items():
        part = _slug(budget, set()) if len(budgets) > 1 else ""
        block: dict[str, Any] = {"budget": budget, "entries": entries, "pictures": []}
        if any(plots.course(entry) for entry in entries):
            for x, what in (("round", "rounds"), ("total", "bytes")):
                drawing = plots.against(group, entries, looks, x, name(part, f"metric-vs-{what}"))
                block["pictures"].append(picture(drawing))
        losses = plots.loss(entries, looks, name(part, "loss-vs-rounds"))
        if losses is not None:
            block["pictures"].append(picture(losses))
        section["blocks"].append(block)
    section["looks"] = {n: (look, shape(look)) for n, look in looks.items()}
    return section, drawn


def _in_order(group: Group, looks: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, looks[name]) for name in dict.fromkeys(entry.name for entry in group.entries)]


def _about(group: Group, name: str) -> str:
    return next((entry.about for entry in group.entries if entry.name == name), "")


# Recipe and versions


def _runs(group: Group) -> list[RunLog]:
    return [run for entry in group.entries for run in entry.runs]


def _common(group: Group) -> str:
    """The recipe as TOML, less what differs between runs."""
    recipes = [run.recipe for run in _runs(group)]
    return tomli_w.dumps(reduce(_shared, recipes)).strip() if recipes else ""


def _shared(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """What two trees have in common; keys may hold dots, as names of tensors do."""
    found: dict[str, Any] = {}
    for key in one.keys() & other.keys():
        mine, its = one[key], other[key]
        if isinstance(mine, Mapping) and isinstance(its, Mapping):
            if (both := _shared(mine, its)) or mine == its:
                found[key] = both
        elif mine == its:
            found[key] = mine
    return {key: found[key] for key in one if key in found}


def _differences(group: Group) -> list[tuple[str, str]]:
    """Of each entry, the settings that are not those of all."""
    recipes = {entry: flat(entry.runs[0].recipe) for entry in group.entries if entry.runs}
    keys = dict.fromkeys(key for recipe in recipes.values() for key in recipe if key not in ("seed", "title"))
    missing = object()
    differ = [key for key in keys if len({repr(recipe.get(key, missing)) for recipe in recipes.values()}) > 1]
    if not differ:
        return []
    rows = []
    for entry, recipe in recipes.items():
        settings = [f"{key} = {json.dumps(recipe[key], default=str)}" for key in differ if key in recipe]
        rows.append((_label(entry, group), "\n".join(settings)))
    return rows


def _label(entry: Entry, group: Group) -> str:
    many = sum(other.name == entry.name for other in group.entries) > 1
    return f"{entry.name}, {entry.budget}" if many and entry.budget else entry.name


def _versions(group: Group) -> list[tuple[str, str]]:
    """What computed, then package -> version; several, where runs were made by several."""
    found: dict[str, dict[str, None]] = {}
    for run in _runs(group):
        summary = run.summary or {}
        if device := summary.get("device"):  # runs of earlier versions do not say
            found.setdefault("computed on", {})[device] = None
        for package, version in (summary.get("versions") or {}).items():
            found.setdefault(package, {})[version] = None
    return [(package, ", ".join(versions)) for package, versions in found.items()]


def _sizes(group: Group) -> str:
    """Model and clients, in a line."""
    summaries = [run.summary for run in _runs(group) if run.summary]
    largest = max(summaries, key=lambda s: s.get("D") or 0, default=None)
    if largest is None or not largest.get("D"):
        return ""
    parts = [f"{largest['D']:,} parameters"]
    if largest.get("model_bytes"):
        parts.append(f"{format_bytes(largest['model_bytes'])} a message that holds the model")
    if largest.get("clients"):
        parts.append(f"{largest['clients']:,} clients")
    return ", ".join(parts)


# Numbers as a person reads them


def _size(value: float | None) -> Markup:
    """Bytes, the number and its unit apart so that units stand under one another."""
    if value is None:
        return Markup(f'<span class="none">{_NONE}</span>')
    number, unit = format_bytes(value).split(" ")
    return Markup('{}<span class="unit">{}</span>').format(number, unit)


def _factor(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:,.0f}\N{MULTIPLICATION SIGN}" if value >= 9.95 else f"{value:.1f}\N{MULTIPLICATION SIGN}"


def _percent(share: float | None) -> str:
    if share is None:
        return _NONE
    digits = 2 if abs(share) < 0.0995 else 0
    return f"{100 * share:+.{digits}f}\N{NARROW NO-BREAK SPACE}%".replace("-", "\N{MINUS SIGN}")


def _raw(value: float | None) -> str:
    """A number as ``comparison.json`` has it, for machines that read the page."""
    return json.dumps(value)


def _and(titles: Sequence[str]) -> str:
    *most, last = dict.fromkeys(titles)
    return f"{', '.join(most)} and {last}" if most else last


def _slug(text: str, taken: set[str]) -> str:
    base = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "group"
    slug, number = base, 2
    while slug in taken:
        slug, number = f"{base}-{number}", number + 1
    taken.add(slug)
    return slug
