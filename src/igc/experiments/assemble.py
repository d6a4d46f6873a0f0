"""From a recipe to the parts of a run: task, data, model, method, engine, server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import nn

from igc.data import load_dataset
from igc.errors import DataError, ProjectionError, RunError, did_you_mean
from igc.experiments.recipe import Recipe
from igc.experiments.settings import MethodSettings, OptimizerSettings
from igc.federation import BatchSettings, Dropout, Fused, InProcess, Sampler, Server, Workplace
from igc.messages import Agreement
from igc.methods import KSubspace, LocalSteps, Method, Static, TimeVarying, fedsgd
from igc.optim import Adam, Schedule, ServerOptimizer, Sgd
from igc.projection import Projection, make_projection
from igc.projection.philox import child_seed
from igc.space import ParameterSpace
from igc.tasks import build_task
from igc.tasks.base import Example, Task


class Purpose(IntEnum):
    """What a seed derived from the recipe's is for; values never change, or old recipes would run otherwise."""

    PROJECTION = 1
    SAMPLING = 2
    BATCHES = 3
    DROPOUT = 4
    DATA = 5
    MODEL = 6


@dataclass(frozen=True)
class Experiment:
    """The parts of a run, ready to train.

    Attributes:
        evaluation: split -> prepared examples, the headline split first.
    """

    recipe: Recipe
    task: Task
    model: nn.Module
    space: ParameterSpace
    method: Method[Any, Any]
    workplace: Workplace
    engine: InProcess | Fused
    server: Server
    evaluation: dict[str, list[Example]]
    clients: int
    device: torch.device

    @property
    def model_bytes(self) -> int:
        """Bytes of the trainable tensors, each in its own dtype: what sending the model would take."""
        return sum(p.numel() * p.element_size() for p in self.workplace.parameters)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Metrics at the server's state: split -> name -> value."""
        self.workplace.theta.move_(*self.method.terms(self.server.state))
        return {split: self.task.evaluate(self.model, examples) for split, examples in self.evaluation.items()}


def assemble(recipe: Recipe) -> Experiment:
    """Build all parts; downloads what is not cached.

    Raises:
        IgcError: a subclass says what does not fit.
    """
    device = choose_device(recipe.device)
    task = build_task(recipe.task, recipe.model, _seed(recipe, Purpose.MODEL) % 2**63)
    dataset = load_dataset(recipe.data, _seed(recipe, Purpose.DATA))
    sampler = Sampler(
        tuple(dataset.clients),
        recipe.federation.clients_per_round,
        _seed(recipe, Purpose.SAMPLING),
        recipe.federation.sampling,
    )
    evaluation = _evaluation(recipe, task, dataset.evaluation)
    clients = {client: task.prepare(examples) for client, examples in dataset.clients.items()}
    if empty := [client for client, examples in clients.items() if not examples]:
        raise DataError(
            f"client '{empty[0]}' has no usable example ({len(empty)} such clients); leave it out of the data"
        )

    model = task.model().to(device)
    space = ParameterSpace.of(model, recipe.space.include, recipe.space.exclude)
    workplace = Workplace(model, space, task, clients, _batches(recipe))
    method = build_method(recipe, space.D, sampler.rounds_per_epoch)
    agreement = Agreement(space.fingerprint, method.projection.digest, method.digest)
    dropout = Dropout(recipe.federation.client_dropout, _seed(recipe, Purpose.DROPOUT))
    sequential = InProcess(method, agreement, workplace, dropout, recipe.federation.non_finite)
    engine = Fused(sequential, workplace) if _can_fuse(recipe, method) else sequential
    server = Server(method, agreement, sampler, _schedule(recipe), recipe.federation.weights)
    return Experiment(recipe, task, model, space, method, workplace, engine, server, evaluation, len(clients), device)


def build_method(recipe: Recipe, D: int, pass_rounds: int) -> Method[Any, Any]:
    """The recipe's method for a model of D parameters; one pass over the clients takes ``pass_rounds`` rounds.

    Raises:
        ProjectionError: d does not fit D.
    """
    method = _one_step_method(recipe, D, pass_rounds)
    local = recipe.local
    if local is None:
        return method
    rule = Adam() if local.optimizer == "adam" else Sgd()
    return LocalSteps(method, local.learning_rate, local.epochs, local.batch_size, rule, local.proximal)


def _one_step_method(recipe: Recipe, D: int, pass_rounds: int) -> Method[Any, Any]:
    settings = recipe.method
    optimizer = _optimizer(recipe.optimizer)
    if settings.name in ("fedsgd", "fedavg"):
        return fedsgd(D, optimizer)
    projection = _projection(settings, D, _seed(recipe, Purpose.PROJECTION))
    inner: Static | KSubspace = Static(projection, optimizer)
    if settings.name.startswith("k-subspace"):
        if settings.subspaces * projection.d > D:
            raise ProjectionError(
                f"{settings.subspaces:,} subspaces of {projection.d:,} dimensions are more than the model's {D:,}; lower"
                " method.subspaces or method.dim"
            )
        inner = KSubspace(projection, optimizer, settings.subspaces)
    if settings.name.endswith("time-varying"):
        return TimeVarying(inner, settings.rounds_per_epoch or pass_rounds)
    return inner


def choose_device(name: str) -> torch.device:
    """The device of a recipe's ``device``; "auto" takes a GPU if there is one.

    Raises:
        RunError: the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RunError(
            f"device '{name}' is not there ({torch.cuda.device_count()} CUDA devices found); use --device cpu"
        )
    return device


def _seed(recipe: Recipe, purpose: Purpose) -> int:
    return child_seed(recipe.seed, purpose)


def _projection(settings: MethodSettings, D: int, seed: int) -> Projection:
    blocks = {} if settings.block is None else {"block": settings.block}
    return make_projection(settings.projection, D=D, d=settings.dim, seed=seed, **blocks)


def _optimizer(settings: OptimizerSettings) -> ServerOptimizer:
    if settings.name == "sgd":
        return Sgd(settings.momentum)
    return Adam(settings.beta1, settings.beta2, settings.epsilon)


def _schedule(recipe: Recipe) -> Schedule:
    o = recipe.optimizer
    return Schedule(o.learning_rate, recipe.federation.rounds, o.schedule, o.warmup_rounds, o.final_fraction)


def _batches(recipe: Recipe) -> BatchSettings:
    f = recipe.federation
    return BatchSettings(f.batch_size, f.micro_batch, f.clip_norm, _seed(recipe, Purpose.BATCHES))


def _can_fuse(recipe: Recipe, method: Method[Any, Any]) -> bool:
    """Whether the gradients of a round's clients may be computed as one."""
    f = recipe.federation
    return f.fused and method.linear and f.weights == "examples" and f.clip_norm is None


def _evaluation(recipe: Recipe, task: Task, splits: Any) -> dict[str, list[Example]]:
    prepared: dict[str, list[Example]] = {}
    for split in recipe.evaluation.splits:
        if split not in splits:
            raise RunError(
                f"evaluation.splits: the data have no split '{split}'{did_you_mean(split, splits)}; they have"
                f" {', '.join(splits) or 'none'}"
            )
        examples: Sequence[Any] = splits[split]
        prepared[split] = _spread(task.prepare(examples), recipe.evaluation.max_examples)
        if not prepared[split]:
            raise DataError(f"evaluation split '{split}' has no usable example")
    return prepared


def _spread(examples: list[Example], most: int | None) -> list[Example]:
    """At most so many examples, evenly spaced: sources come in order, of labels for instance."""
    count = len(examples)
    if most is None or count <= most:
        return examples
    return [examples[i * count // most] for i in range(most)]
