"""`igc bench engine`: a round client by client and fused; and what IGC costs a client beside its gradient."""

from __future__ import annotations

from typing import Any, Final

import torch

from igc.experiments.assemble import Experiment, assemble
from igc.experiments.bench.timing import clock_of, medians_ms
from igc.experiments.recipe import load
from igc.federation.worker import ClientWorker
from igc.projection import Term
from igc.projection.streaming import absorbed

_EVALUATED: Final = 200


def bench(
    recipe: str = "movie-reviews-static",
    clients: int = 64,
    snippets: int = 4,
    rounds: int = 3,
    settings: tuple[str, ...] = (),
) -> dict[str, Any]:
    """One-step clients in sequence against fused: the same rounds of the same recipe, taking turns.

    The first round of each warms up and is not timed; ``sequential_s`` and ``fused_s`` are medians over the others.

    Raises:
        IgcError: the recipe, its model or its data cannot be had.
    """
    overrides = [
        f"federation.clients_per_round={clients}",
        f"federation.batch_size={snippets}",
        f"evaluation.max_examples={_EVALUATED}",
        *settings,
    ]
    both = {
        "sequential": assemble(load(recipe, [*overrides, "federation.fused=false"])),
        "fused": assemble(load(recipe, [*overrides, "federation.fused=true"])),
    }
    losses: dict[str, list[float | None]] = {name: [] for name in both}
    difference = [0.0]

    def round_of(name: str, experiment: Experiment) -> None:
        losses[name].append(experiment.server.run_round(experiment.engine).loss)
        if name == "fused":
            difference.append(_difference(*both.values()))

    times = medians_ms({name: lambda n=name, e=e: round_of(n, e) for name, e in both.items()}, rounds)  # type: ignore[misc]
    scores = {name: experiment.evaluate() for name, experiment in both.items()}
    return {
        "recipe": recipe,
        "clients": clients,
        "snippets": snippets,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "sequential_s": times["sequential"] / 1e3,
        "fused_s": times["fused"] / 1e3,
        "ratio": times["sequential"] / times["fused"],
        "max_abs_difference": difference[1],
        "max_abs_difference_last": difference[-1],
        "losses": losses,
        "metrics": scores,
    }


def bench_client(
    recipe: str = "shakespeare", blocks: int = 4, repeats: int = 9, settings: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What a client of IGC takes beside the plain gradient of the same batch, whose gradients are kept.

    ``sketch_ms`` is gradient and projection, ``move_ms`` theta = theta_0 + A sigma for another sigma; together they are a
    client's round, whose excess over ``plain_ms`` is ``overhead_percent``. ``dropped_ms``: each gradient freed as backward
    finishes it, of no use to anybody, which spares the system the memory of a whole one as the projection does; the excess
    over that is ``overhead_over_dropped_percent``.

    Raises:
        IgcError: the recipe, its model or its data cannot be had.
    """
    experiment = assemble(load(recipe, list(settings)))
    place, projection = experiment.workplace, experiment.method.projection
    split = next(iter(experiment.evaluation.values()))
    longest = sorted(split, key=experiment.task.length)[-blocks:]
    worker = ClientWorker(place, "bench", 0, longest)
    generator = torch.Generator().manual_seed(0)

    def plain() -> None:
        loss, count = experiment.task.loss(experiment.model, longest)
        torch.autograd.backward(loss / count)
        for parameter in place.parameters:  # here, that no other pays for it
            parameter.grad = None

    def dropped() -> None:
        with absorbed(place.parameters, lambda *_: None):
            plain()

    def move() -> None:
        worker.move_([Term(projection, 1e-6 * torch.randn(projection.d, generator=generator))])

    tasks = {"plain_ms": plain, "dropped_ms": dropped, "sketch_ms": lambda: worker.sketch(projection), "move_ms": move}
    times = medians_ms(tasks, repeats, clock_of(experiment.device))
    ours = times["sketch_ms"] + times["move_ms"]
    return {
        "recipe": recipe,
        "params": projection.D,
        "tokens": sum(experiment.task.length(block) - 1 for block in longest),
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        **times,
        "sketch_overhead_percent": 100 * (times["sketch_ms"] / times["plain_ms"] - 1),
        "overhead_percent": 100 * (ours / times["plain_ms"] - 1),
        "overhead_over_dropped_percent": 100 * (ours / times["dropped_ms"] - 1),
    }


def _difference(left: Experiment, right: Experiment) -> float:
    """The largest difference between two sigmas, relative to the largest entry."""
    a, b = (e.method.terms(e.server.state)[0][0].sigma for e in (left, right))
    return float((a - b).abs().max() / a.abs().max())
