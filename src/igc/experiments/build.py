"""From a recipe's sections ``method``, ``local`` and ``optimizer`` to the method that they name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from torch import Tensor

from igc.errors import ProjectionError
from igc.experiments.groups import grouped
from igc.experiments.recipe import Recipe
from igc.experiments.scale import scaled_by_table, scaled_by_weights
from igc.experiments.settings import CodecSettings, LocalSettings, MethodSettings, OptimizerSettings
from igc.methods import (
    BurnIn,
    Calibrated,
    ErrorFeedback,
    FetchSgd,
    KSubspace,
    LocalSteps,
    LocalTopK,
    Method,
    Plateau,
    PowerSgd,
    RandomK,
    Scaffold,
    Static,
    TimeVarying,
    TrueTopK,
    ZerothOrder,
    fedsgd,
)
from igc.methods.replica import SparseDownlink
from igc.optim import Adagrad, Adam, ServerOptimizer, Sgd, Yogi
from igc.projection import Coordinates, CountSketch, Projection, make_projection
from igc.projection.base import next_power_of_two
from igc.projection.philox import child_seed
from igc.space import ParameterSpace

_FAST_BLOCK: Final = 1024


def build_method(
    recipe: Recipe,
    space: ParameterSpace,
    pass_rounds: int,
    seed: int,
    clients: int,
    theta: Sequence[Tensor] | None = None,
) -> Method[Any, Any]:
    """The recipe's method.

    Args:
        recipe: names it.
        space: the model's trainable parameters.
        pass_rounds: rounds of one pass over the clients.
        seed: of its projection.
        clients: how many there are.
        theta: the tensors of theta_0; None where nothing is to be trained: what is scaled by them is then not scaled.

    Raises:
        ProjectionError: d does not fit D.
        SpaceError: a pattern of the recipe's fits no tensor.
    """
    method = _one_step_method(recipe, space, pass_rounds, seed, theta)
    if recipe.codec.error_feedback:  # what local training uploads goes through the codec, not each of its steps
        method = ErrorFeedback(method, recipe.codec.up)
    if recipe.local is not None:
        method = _local(recipe.local, recipe.codec, method, clients)
    if recipe.method.name == "decomfl":  # outermost: each local step is made of differences, too
        method = ZerothOrder(method, recipe.method.smoothing, recipe.method.differences)
    if recipe.method.scale == "calibrated":
        sizes = tuple(entry.size for entry in space.entries)
        method = Calibrated(method, sizes, recipe.method.scale_exponent, recipe.method.scale_floor)
    if recipe.method.burn_in is not None:
        method = _burn_in(recipe.method, method, space, seed, theta)
    return method


def _burn_in(
    settings: MethodSettings,
    method: Method[Any, Any],
    space: ParameterSpace,
    seed: int,
    theta: Sequence[Tensor] | None,
) -> BurnIn:
    assert settings.burn_in is not None
    if settings.wide_dim > space.D:
        value = (
            f"{settings.wide_dim:,}"
            if settings.burn_in_dim
            else f"4 x method.dim = {settings.wide_dim:,}, its default,"
        )
        raise ProjectionError(
            f"method.burn_in_dim = {value} exceeds the model's {space.D:,} trainable parameters; set a lower one"
        )
    wide, rest = (
        _scaled(settings, _projection(settings, space.D, d, child_seed(seed, step)), space, theta)
        for step, d in ((1, settings.wide_dim), (2, settings.dim - settings.directions))
    )
    return BurnIn(method, wide, rest, settings.burn_in)


def _local(local: LocalSettings, codec: CodecSettings, method: Method[Any, Any], clients: int) -> Method[Any, Any]:
    if local.control_variates:
        steps = local.learning_rate, clients, local.epochs, local.batch_size
        return Scaffold(method, *steps, codec.up, codec.down)
    rule = Adam() if local.optimizer == "adam" else Sgd()
    return LocalSteps(method, local.learning_rate, local.epochs, local.batch_size, rule, local.proximal)


def _one_step_method(
    recipe: Recipe, space: ParameterSpace, pass_rounds: int, seed: int, theta: Sequence[Tensor] | None
) -> Method[Any, Any]:
    settings, D = recipe.method, space.D
    optimizer = _optimizer(recipe.optimizer)
    if settings.name in ("fedsgd", "fedavg"):
        return fedsgd(D, optimizer)
    if settings.name in _SPARSE:
        sparse = _SPARSE[settings.name](recipe, D, seed)
        return dataclasses.replace(sparse, down=recipe.codec.down)
    if settings.name == "powersgd":
        shapes = tuple(entry.shape for entry in space.entries)
        return PowerSgd(shapes, optimizer, settings.rank, settings.error_feedback, seed, recipe.codec.up)
    if settings.name == "decomfl":
        return TimeVarying(Static(_directions(settings, D, seed), optimizer), 1, down=recipe.codec.down)
    projection = _scaled(settings, _in_groups(settings, space, seed), space, theta)
    inner: Static | KSubspace = Static(projection, optimizer)
    if settings.name.startswith("k-subspace"):
        if settings.subspaces * projection.d > D:
            raise ProjectionError(
                f"{settings.subspaces:,} subspaces of {projection.d:,} dimensions are more than the model's {D:,}; lower"
                " method.subspaces or method.dim"
            )
        inner = KSubspace(projection, optimizer, settings.subspaces)
    if settings.name.endswith("time-varying"):
        return _time_varying(inner, settings, pass_rounds, recipe.codec.down)
    return inner


def _time_varying(inner: Static | KSubspace, settings: MethodSettings, pass_rounds: int, down: str) -> TimeVarying:
    if settings.change == "rounds":
        return TimeVarying(inner, settings.rounds_per_epoch or pass_rounds, carry=settings.moments, down=down)
    plateau = Plateau(settings.patience, settings.threshold)
    return TimeVarying(inner, settings.rounds_per_epoch, plateau, settings.moments, down)


def _k(settings: MethodSettings, D: int) -> int:
    return settings.k or max(D // 130, 1)


def _local_top_k(recipe: Recipe, D: int, seed: int) -> SparseDownlink[Any, Any]:  # noqa: ARG001
    settings = recipe.method
    return LocalTopK.of(D, _optimizer(recipe.optimizer), _k(settings, D), settings.error_feedback, recipe.codec.up)


def _true_top_k(recipe: Recipe, D: int, seed: int) -> SparseDownlink[Any, Any]:  # noqa: ARG001
    return TrueTopK.of(D, _k(recipe.method, D), recipe.optimizer.momentum, recipe.method.masking)


def _random_k(recipe: Recipe, D: int, seed: int) -> SparseDownlink[Any, Any]:
    return RandomK(Coordinates(D, _k(recipe.method, D), seed), _optimizer(recipe.optimizer))


def _fetchsgd(recipe: Recipe, D: int, seed: int) -> SparseDownlink[Any, Any]:
    # The published defaults, 5 rows of 500,000 and k = 50,000, are for a ResNet-9 of 6,568,640 parameters.
    settings = recipe.method
    columns = settings.columns or max(D // 13, 1)
    sketch = CountSketch(D, settings.rows * columns, seed, settings.rows)
    return FetchSgd(sketch, _k(settings, D), recipe.optimizer.momentum, settings.masking)


_SPARSE: Final[Mapping[str, Callable[[Recipe, int, int], SparseDownlink[Any, Any]]]] = {
    "local-top-k": _local_top_k,
    "true-top-k": _true_top_k,
    "random-k": _random_k,
    "fetchsgd": _fetchsgd,
}


def _projection(settings: MethodSettings, D: int, d: int, seed: int) -> Projection:
    if settings.block is None:
        return make_projection(settings.projection, D=D, d=d, seed=seed)
    if settings.projection == "fastfood" and settings.block < d:
        raise ProjectionError(
            f"method.block = {settings.block:,} is less than {d:,}, the dimensions of a subspace"
            f"{'' if d == settings.dim else ' that method.burn_in or method.budgets asks for'}; Fastfood has as many in a"
            " block: raise it, or remove it"
        )
    return make_projection(settings.projection, D=D, d=d, seed=seed, block=settings.block)


def _in_groups(settings: MethodSettings, space: ParameterSpace, seed: int) -> Projection:
    return grouped(
        partial(_projection, settings),
        space,
        settings.dim,
        seed,
        full=settings.full,
        full_below=settings.full_below or 0,
        budgets=settings.budgets,
    )


def _scaled(
    settings: MethodSettings, projection: Projection, space: ParameterSpace, theta: Sequence[Tensor] | None
) -> Projection:
    if settings.scale == "table":
        assert settings.scale_table is not None
        return scaled_by_table(projection, space, settings.scale_table)
    if settings.scale == "weights" and theta is not None:
        return scaled_by_weights(projection, theta, settings.scale_exponent, settings.scale_floor)
    return projection


def _directions(settings: MethodSettings, D: int, seed: int) -> Projection:
    # Random signs are the same in blocks of any size, and the model moves five times faster in large ones than in the
    # smallest that hold so few columns.
    if settings.projection == "blocked-hadamard" and settings.block is None:
        settings = settings.model_copy(update={"block": max(_FAST_BLOCK, next_power_of_two(settings.perturbations))})
    return _projection(settings, D, settings.perturbations, seed)


def _optimizer(settings: OptimizerSettings) -> ServerOptimizer:
    decay = {} if settings.beta2 is None else {"beta2": settings.beta2}
    if settings.name == "sgd":
        return Sgd(settings.momentum)
    if settings.name == "adagrad":
        return Adagrad(settings.epsilon)
    rule = Adam if settings.name == "adam" else Yogi
    return rule(beta1=settings.beta1, epsilon=settings.epsilon, **decay)
