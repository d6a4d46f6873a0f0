"""`igc bench memory`: the peak of forward and backward with all gradients kept, and with each projected as it is born."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from igc.errors import IgcError
from igc.experiments.bench.peak import FAILED, added_peak_bytes, in_fresh_process
from igc.experiments.recipe import load
from igc.projection import BlockedHadamard, project_as_born
from igc.space import ParameterSpace
from igc.tasks import build_task

# Forward alone; backward with each gradient dropped; with all kept; with each projected, then dropped.
MODES: Final = ("forward", "dropping", "plain", "streaming")
_LAYERS: Final = 8
_BATCH: Final = 8
Loss = Callable[[], Tensor]


def bench(params: int | None = None, d: int = 16_384, recipe: str = "shakespeare", blocks: int = 4) -> dict[str, Any]:
    """Peaks of resident memory above the model itself, each measured in a process of its own.

    Args:
        params: take a stack of linear layers of about so many parameters, not the recipe's model.
        d: intrinsic dimension.
        recipe: whose model and task are taken.
        blocks: of text, in the batch.

    Raises:
        RunError: the recipe or its model cannot be had, or d does not fit it.
    """
    arguments = {"params": params, "d": d, "recipe": recipe, "blocks": blocks}
    found = {mode: in_fresh_process(__name__, mode=mode, **arguments) for mode in MODES}
    peaks = {mode: int(result["peak"]) for mode, result in found.items()}
    return {
        "model": f"{_LAYERS} linear layers" if params else recipe,
        "params": found["plain"]["params"],
        "dim": d,
        "threads": torch.get_num_threads(),
        "largest_tensor_bytes": found["plain"]["largest"],
        "forward_peak_bytes": peaks["forward"],
        "dropping_peak_bytes": peaks["dropping"],
        "plain_peak_bytes": peaks["plain"],
        "streaming_peak_bytes": peaks["streaming"],
        "streaming_over_forward_bytes": peaks["streaming"] - peaks["forward"],
        "streaming_over_dropping_bytes": peaks["streaming"] - peaks["dropping"],
    }


def _measure(mode: str, params: int | None, d: int, recipe: str, blocks: int) -> dict[str, int]:
    model, loss = _synthetic(params) if params else _of_recipe(recipe, blocks)
    space = ParameterSpace.of(model)
    parameters = space.parameters(model)
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(1.0)  # weights mapped from a file become resident before anything is measured
    projection = BlockedHadamard(D=space.D, d=d, seed=0)
    projection.project(torch.ones(1))  # loads what is loaded once
    peak = added_peak_bytes(lambda: _run(mode, projection, parameters, loss))
    return {
        "peak": peak,
        "params": space.D,
        "largest": max(parameter.numel() * parameter.element_size() for parameter in parameters),
    }


def _run(mode: str, projection: BlockedHadamard, parameters: Sequence[Tensor], loss: Loss) -> None:
    if mode == "streaming":
        with project_as_born(projection, parameters):
            loss().backward()  # type: ignore[no-untyped-call]
        return
    if mode == "dropping":
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(_drop)  # type: ignore[no-untyped-call]
    value = loss()
    if mode != "forward":
        value.backward()  # type: ignore[no-untyped-call]


def _drop(parameter: Tensor) -> None:
    parameter.grad = None


def _synthetic(params: int) -> tuple[nn.Module, Loss]:
    width = max(math.isqrt(params // _LAYERS), 1)
    layers = [nn.Sequential(nn.Linear(width, width, bias=False), nn.Tanh()) for _ in range(_LAYERS)]
    model = nn.Sequential(*layers)
    batch = torch.randn(_BATCH, width, generator=torch.Generator().manual_seed(0))
    return model, lambda: model(batch).square().mean()


def _of_recipe(recipe: str, blocks: int) -> tuple[nn.Module, Loss]:

    chosen = load(recipe, [])
    task = build_task(chosen.task, chosen.model, 0)
    examples = task.prepare(["To be, or not to be, that is the question.\n" * 100])[:blocks]
    model = task.model()
    return model, lambda: task.loss(model, examples)[0]


if __name__ == "__main__":
    try:
        measured = _measure(**json.loads(sys.argv[1]))
    except IgcError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(FAILED) from None
    sys.stdout.write(json.dumps(measured) + "\n")
