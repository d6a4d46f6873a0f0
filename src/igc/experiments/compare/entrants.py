"""Who takes part in a comparison."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from igc.errors import RecipeError, did_you_mean
from igc.experiments.compare.entrant import LOCAL_RATE, Entrant
from igc.experiments.compare.names import parts
from igc.experiments.recipe import Recipe, parse_override

# What is the same for everybody, and how it is set; an entrant's own would be overwritten.
_ALIKE: Final = {
    "seed": "--set seed=N is where seeds count from, --seeds how many there are",
    "federation.rounds": "give all so many by --rounds",
    "evaluation.splits": "give all the same by --set evaluation.splits=..., or name the one that chooses by --validation",
}


def _sgd(momentum: float | None = None) -> dict[str, Any]:
    return {"optimizer.name": "sgd", "optimizer.momentum": momentum}


# McMahan et al.: clients go once through all that they have, and the server takes their mean.
_FEDAVG: Final = {
    "method.name": "fedavg",
    "local.epochs": 1,
    "local.batch_size": 8,
    "federation.batch_size": None,
    **_sgd(),
    "optimizer.learning_rate": 1.0,
    "optimizer.schedule": "constant",
    "optimizer.warmup_rounds": 0,
}

# A recipe's codecs, its local training and what it adds to the method are its own; entrants go without.
_WITHOUT: Final = dict.fromkeys(
    (
        "codec.up",
        "codec.down",
        "codec.error_feedback",
        "method.scale",
        "method.full",
        "method.full_below",
        "method.budgets",
        "method.burn_in",
        "method.burn_in_dim",
        "method.learned",
        "local",
    )
)

_OWN: Final = (
    Entrant(
        "static",
        "intrinsic gradient compression, one subspace (Melas-Kyriazi and Wang 2022)",
        {"method.name": "static"},
    ),
    Entrant("time-varying", "the same, fresh matrices every epoch", {"method.name": "time-varying"}),
    Entrant("k-subspace", "the same, K subspaces at once", {"method.name": "k-subspace"}),
    Entrant(
        "static-1bit",
        "static, uploads of one bit a number (DRIVE, Vargaftik et al. 2021)",
        {"method.name": "static", "codec.up": "eden-1"},
    ),
)

_DENSE: Final = (
    Entrant("fedsgd", "uncompressed (McMahan et al. 2017), Adam", {"method.name": "fedsgd"}, relative=0.1),
    Entrant("fedavg", "uncompressed local epochs (McMahan et al. 2017)", _FEDAVG, LOCAL_RATE, start=0.1),
    Entrant(
        "fedprox",
        "the same, with a pull back of 0.1 (Li et al. 2020)",
        {**_FEDAVG, "local.proximal": 0.1},
        LOCAL_RATE,
        start=0.1,
    ),
    Entrant(
        "qsgd",
        "the whole gradient at 4 bits (Alistarh et al. 2017)",
        {"method.name": "fedsgd", "codec.up": "qsgd-4"},
        relative=0.1,
    ),
    Entrant(
        "int4",
        "the same, scaled by the largest magnitude of a bucket",
        {"method.name": "fedsgd", "codec.up": "int4"},
        relative=0.1,
    ),
    Entrant(
        "eden",
        "the whole gradient at 1 bit (Vargaftik et al. 2022)",
        {"method.name": "fedsgd", "codec.up": "eden-1"},
        relative=0.1,
    ),
)

_SPARSE: Final = (
    # Without the clients' own error: it is as large as the model, and most clients come back once or twice.
    Entrant(
        "local-top-k",
        "each client's k largest, without its error of before (Aji and Heafield 2017)",
        {"method.name": "local-top-k", "method.error_feedback": False, **_sgd()},
        start=0.3,
    ),
    Entrant(
        "true-top-k",
        "the k largest of the mean, an upper bound (Rothchild et al. 2020)",
        {"method.name": "true-top-k", **_sgd(0.9)},
        start=0.1,
    ),
    Entrant(
        "fetchsgd",
        "count sketches, momentum and error in them (Rothchild et al. 2020)",
        {"method.name": "fetchsgd", **_sgd(0.9)},
        start=0.1,
    ),
    # Plain SGD: momentum would go on moving, and sending, whatever coordinates had a gradient before.
    Entrant(
        "random-k",
        "k random coordinates a round (Konecny et al. 2016)",
        {"method.name": "random-k", **_sgd()},
        start=0.01,
    ),
)

_RANK_8: Final = {"model.lora_rank": 8}

_LOW_RANK: Final = (
    # Clients keep no error: it is as large as the model, and most come back once or twice.
    Entrant(
        "powersgd",
        "the gradient's matrices at rank 4, without clients' errors (Vogels et al. 2019)",
        {"method.name": "powersgd", "method.error_feedback": False},
        relative=0.1,
    ),
    Entrant(
        "decomfl",
        "ten finite differences a round, no gradients (Li et al. 2025)",
        {"method.name": "decomfl", **_sgd(), "optimizer.warmup_rounds": 0},
        start=1e-4,
    ),
    Entrant(
        "fedavg-lora", "FedAvg over LoRA layers (Zhang et al. 2024)", {**_FEDAVG, **_RANK_8}, LOCAL_RATE, start=0.3
    ),
    Entrant(
        "ffa-lora",
        "the same, B alone (Sun et al. 2024)",
        {**_FEDAVG, **_RANK_8, "model.lora_freeze_a": True},
        LOCAL_RATE,
        start=0.3,
    ),
    Entrant(
        "uni-lora",
        "LoRA layers of 1,024 shared weights, after Uni-LoRA (Li et al. 2025)",
        {"method.name": "static", "method.projection": "partition", "method.dim": 1024, **_RANK_8},
        start=5e-3,
    ),
    Entrant(
        "gpart",
        "all weights of d shared ones, after GPart (Mandica et al. 2026)",
        {"method.name": "static", "method.projection": "partition"},
    ),
)

ENTRANTS: Final[Mapping[str, Entrant]] = {
    "recipe": Entrant("recipe", "the recipe as it is, with its codecs and all that it adds to its method"),
    **{
        entrant.name: replace(entrant, settings={**_WITHOUT, **entrant.settings})
        for entrant in (*_OWN, *_DENSE, *_SPARSE, *_LOW_RANK)
    },
}


def entrants(names: Iterable[str], given: Collection[str] = ()) -> list[Entrant]:
    """The entrants of these names; ``NAME+KEY=VALUE`` is one with another setting, or several.

    Args:
        names: as on the command line.
        given: keys of the recipe, dotted, that the user set for all: no entrant takes them out of it, though one whose
            point is such a setting has its own.

    Raises:
        RecipeError: a name is not known, or comes twice, or sets what is the same for all.
    """
    found: dict[str, Entrant] = {}
    for name in names:
        plain, *changes = parts(name)
        if plain not in ENTRANTS:
            raise RecipeError(
                f"no method '{plain}' to compare{did_you_mean(plain, ENTRANTS)}; known: {', '.join(ENTRANTS)}"
            )
        if name in found:
            raise RecipeError(f"method '{name}' is named twice; name it once")
        settings = {".".join(keys): value for keys, value in map(parse_override, changes)}
        for key, remedy in _ALIKE.items():
            if _take(settings, key) is not None:
                raise RecipeError(f"method '{name}': all methods of a comparison have the same {key}; {remedy}")
        base = ENTRANTS[plain]
        # A rate that was asked for is where tuning starts.
        asked = _take(settings, base.tuned)
        start = base.start if asked is None else asked
        own = {k: v for k, v in base.settings.items() if not (v is None and k in _WITHOUT and _overlaps(k, given))}
        found[name] = replace(base, name=name, settings={**own, **settings}, start=start)
    return list(found.values())


def everybody(given: Collection[str] = ()) -> list[Entrant]:
    """All entrants but the recipe itself."""
    return entrants((name for name in ENTRANTS if name != "recipe"), given)


def fitting(chosen: Iterable[Entrant], base: Recipe, rounds: int) -> tuple[list[Entrant], dict[str, list[str]]]:
    """The entrants whose settings fit a recipe, and of the others the names, by what stands in their way."""
    fit: list[Entrant] = []
    misfits: dict[str, list[str]] = {}
    for entrant in chosen:
        try:
            entrant.recipe(base, entrant.first_rate(base), {"federation.rounds": rounds})
        except RecipeError as error:
            why = " ".join(str(error).removeprefix(f"method {entrant.name}: ").split())
            misfits.setdefault(why, []).append(entrant.name)
        else:
            fit.append(entrant)
    return fit, misfits


def _take(settings: dict[str, Any], key: str) -> Any:
    """A setting, taken out, by itself or of its section given as a table; None where there is none."""
    section, _, name = key.rpartition(".")
    table = settings.get(section)
    if isinstance(table, dict) and name in table:
        settings[section] = {other: value for other, value in table.items() if other != name}
        return table[name]
    return settings.pop(key, None)


def _overlaps(key: str, given: Iterable[str]) -> bool:
    """Whether a key, a section of it or something in it is among some."""
    return any(f"{other}.".startswith(f"{key}.") or f"{key}.".startswith(f"{other}.") for other in given)
