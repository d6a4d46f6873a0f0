"""From a recipe to the parts of a run: task, data, model, method, engine, server."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from igc.codecs import CODECS
from igc.data import FederatedDataset, load_dataset
from igc.errors import DataError, RecipeError, RunError, did_you_mean
from igc.experiments.build import build_method
from igc.experiments.protect import build_protection, cohort_seed, digest_with
from igc.experiments.recipe import Recipe
from igc.federation import (
    BatchSettings,
    Crew,
    Dropout,
    Fused,
    InProcess,
    Processes,
    Sampler,
    Server,
    StatefulEngine,
    Workplace,
)
from igc.federation.processes import Respond
from igc.messages import Agreement
from igc.methods import Method
from igc.optim import Schedule
from igc.projection.philox import child_seed
from igc.space import ParameterSpace
from igc.tasks import build_task
from igc.tasks.alignment import align_
from igc.tasks.base import Example, Task
from igc.tasks.linear import quicken_
from igc.tasks.lora import underlying


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
    engine: StatefulEngine
    server: Server
    evaluation: dict[str, list[Example]]
    clients: int
    device: torch.device

    @property
    def model_bytes(self) -> int:
        """Bytes of the trainable tensors, each in its own dtype: what sending the model would take.

        LoRA layers stand for the model that they are added to, which is what would be trained without them.
        """
        lora = self.recipe.model.lora_rank is not None
        tensors = underlying(self.model) if lora else self.workplace.parameters
        return sum(p.numel() * p.element_size() for p in tensors)

    @property
    def device_name(self) -> str:
        """Where the run computes: a GPU's name, or "CPU"."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Metrics at the server's state: split -> name -> value."""
        self.workplace.theta.move_(*self.method.terms(self.server.state))
        return {split: self.task.evaluate(self.model, examples) for split, examples in self.evaluation.items()}


def assemble(recipe: Recipe, dataset: FederatedDataset[Any] | None = None) -> Experiment:
    """Build all parts; downloads what is not cached.

    Args:
        recipe: names them.
        dataset: the part of the data that is here, where others are elsewhere: clients without examples are somebody
            else's, and only the splits that it has are evaluated. None: all data, as the recipe says.

    Raises:
        IgcError: a subclass says what does not fit.
    """
    device = choose_device(recipe.device)
    task = build_task(recipe.task, recipe.model, _seed(recipe, Purpose.MODEL) % 2**63)
    here = load_data(recipe) if dataset is None else dataset
    sampler = sampler_of(recipe, tuple(here.clients))
    evaluation = _evaluation(recipe, task, here.evaluation) if dataset is None or here.evaluation else {}
    clients = {client: task.prepare(examples) for client, examples in here.clients.items()}
    if dataset is None and (empty := [client for client, examples in clients.items() if not examples]):
        raise DataError(
            f"client '{empty[0]}' has no usable example ({len(empty)} such clients); leave it out of the data"
        )

    if device.type == "cuda":  # convolutions in float32, as products are; by algorithms that add in one order
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    model = quicken_(align_(task.model().to(device)))
    space = ParameterSpace.of(model, recipe.space.include, recipe.space.exclude)
    workplace = Workplace(model, space, task, clients, _batches(recipe))
    sequential, server = connect(recipe, space, sampler, workplace, workplace.parameters)
    method = server.method
    engine = _engine(recipe, sequential, method, workplace)
    return Experiment(recipe, task, model, space, method, workplace, engine, server, evaluation, len(clients), device)


def server_data(recipe: Recipe, clients: Sequence[str] = ()) -> FederatedDataset[Any]:
    """The data of a server alone: what is evaluated, and no examples to train on.

    Args:
        recipe: names them.
        clients: their names, where they are not those of the recipe's data.

    Raises:
        DataError: the data are missing or malformed, or have not the splits of the recipe.
    """
    dataset = load_data(recipe)
    check_splits(recipe, dataset.evaluation)
    return FederatedDataset(dict.fromkeys(clients or dataset.clients, ()), dataset.evaluation)


def sampler_of(recipe: Recipe, clients: Sequence[str]) -> Sampler:
    """Who takes part in which round.

    Raises:
        DataError: there are too few clients.
    """
    f = recipe.federation
    seed = cohort_seed(recipe, _seed(recipe, Purpose.SAMPLING))
    return Sampler(tuple(clients), f.clients_per_round, seed, f.sampling)


def connect(
    recipe: Recipe, space: ParameterSpace, sampler: Sampler, workplace: Workplace, theta: Sequence[torch.Tensor] | None
) -> tuple[InProcess, Server]:
    """Clients and server of a recipe, in one process.

    Args:
        recipe: says how they train.
        space: of the model.
        sampler: who takes part.
        workplace: where clients compute.
        theta: the tensors of theta_0; None where nothing is to be trained.

    Raises:
        IgcError: the recipe does not fit the model.
    """
    pass_rounds, seed = sampler.rounds_per_epoch, _seed(recipe, Purpose.PROJECTION)
    _clients_come_back(recipe, pass_rounds)
    method = build_method(recipe, space, pass_rounds, seed, len(sampler.clients), theta)
    protection, codec = build_protection(recipe), recipe.codec
    digest = digest_with(method.digest, protection)
    agreement = Agreement(space.fingerprint, method.projection.digest, digest, codec.up, codec.down)
    clients = InProcess(method, agreement, workplace, dropout_of(recipe), recipe.federation.non_finite, protection)
    server = Server(
        method,
        agreement,
        sampler,
        schedule_of(recipe, pass_rounds),
        recipe.federation.weights,
        from_change=recipe.optimizer.restarts == "change",
        protection=protection,
    )
    return clients, server


def _clients_come_back(recipe: Recipe, pass_rounds: int) -> None:
    """Whether what clients keep of a subspace is ever of use: how many rounds a pass takes, no recipe says by itself.

    Raises:
        RecipeError: each client takes part once in each subspace.
    """
    m, local = recipe.method, recipe.local
    kept = {
        "codec.error_feedback": recipe.codec.error_feedback,
        "local.control_variates": local is not None and local.control_variates,
    }
    key = next((key for key, is_set in kept.items() if is_set), None)
    in_passes = m.name.endswith("time-varying") and m.change == "rounds" and recipe.federation.sampling == "epoch"
    if key is not None and in_passes and pass_rounds % (m.rounds_per_epoch or pass_rounds) == 0:
        raise RecipeError(
            f"{key}: means nothing where each client takes part once in a subspace, of which it would keep something;"
            f" remove it, or set method.rounds_per_epoch to more than the {pass_rounds} rounds of one pass over the clients"
        )


def load_data(recipe: Recipe) -> FederatedDataset[Any]:
    """The recipe's federated dataset.

    Raises:
        DataError: the data are missing or malformed, or cannot be dealt out as asked.
    """
    return load_dataset(recipe.data, _seed(recipe, Purpose.DATA))


def dropout_of(recipe: Recipe) -> Dropout:
    """Which clients never answer."""
    return Dropout(recipe.federation.client_dropout, _seed(recipe, Purpose.DROPOUT))


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


def schedule_of(recipe: Recipe, pass_rounds: int) -> Schedule:
    """The server's learning rates; with restarts at a change of subspace, those of rounds since the change.

    Args:
        recipe: has them.
        pass_rounds: rounds of one pass over the clients.

    Raises:
        RecipeError: each change of subspace comes before the warm-up is over.
    """
    o, rounds = recipe.optimizer, recipe.federation.rounds
    if o.cycle is not None:
        rounds = o.cycle
    elif o.restarts == "change":
        rounds = recipe.method.rounds_per_epoch or pass_rounds
        # How many rounds a pass takes, no recipe says by itself.
        if recipe.method.change == "rounds" and o.warmup_rounds > rounds:
            raise RecipeError(
                f"optimizer.warmup_rounds: {o.warmup_rounds} is more than the {rounds} rounds of one pass over the clients,"
                " after which restarts = 'change' begins again; warm up for fewer, or set method.rounds_per_epoch"
            )
    shape = o.schedule, o.warmup_rounds, o.final_fraction
    return Schedule(o.learning_rate, rounds, *shape, restarts=o.restarts == "rounds")


def _batches(recipe: Recipe) -> BatchSettings:
    f = recipe.federation
    return BatchSettings(f.batch_size, f.micro_batch, f.clip_norm, _seed(recipe, Purpose.BATCHES))


def _engine(
    recipe: Recipe, sequential: InProcess, method: Method[Any, Any], workplace: Workplace
) -> InProcess | Fused | Processes:
    if _can_fuse(recipe, method):
        return Fused(sequential, workplace)
    # More processes than clients of a round would have nothing to do.
    count = min(recipe.federation.processes, recipe.federation.clients_per_round)
    return sequential if count == 1 else Processes(sequential, Crew(partial(_clients_side, recipe), count))


def _clients_side(recipe: Recipe) -> Respond:
    """What one of several worker processes answers with."""
    federation = recipe.federation.model_copy(update={"processes": 1})
    return cast(InProcess, assemble(recipe.model_copy(update={"federation": federation})).engine).respond


def _can_fuse(recipe: Recipe, method: Method[Any, Any]) -> bool:
    """Whether the gradients of a round's clients may be computed as one."""
    f = recipe.federation
    # The mean of what a lossy codec makes of uploads is not what it makes of their mean.
    exact = CODECS[recipe.codec.up].lossless
    # A fused round's replies hold the group's mean; bounds, rules, noise and masks are about each client's own upload.
    return (
        f.fused and method.linear and exact and not recipe.guarded and f.weights == "examples" and f.clip_norm is None
    )


def _evaluation(recipe: Recipe, task: Task, splits: Any) -> dict[str, list[Example]]:
    check_splits(recipe, splits)
    prepared: dict[str, list[Example]] = {}
    for split in recipe.evaluation.splits:
        examples: Sequence[Any] = splits[split]
        prepared[split] = _spread(task.prepare(examples), recipe.evaluation.max_examples)
        if not prepared[split]:
            raise DataError(f"evaluation split '{split}' has no usable example")
    return prepared


def check_splits(recipe: Recipe, splits: Collection[str]) -> None:
    """Refuse a recipe that evaluates what the data do not have.

    Raises:
        RunError: there is no such split.
    """
    for split in recipe.evaluation.splits:
        if split not in splits:
            raise RunError(
                f"evaluation.splits: the data have no split '{split}'{did_you_mean(split, splits)}; they have"
                f" {', '.join(splits) or 'none'}"
            )


def _spread(examples: list[Example], most: int | None) -> list[Example]:
    """At most so many examples, evenly spaced: sources come in order, of labels for instance."""
    count = len(examples)
    if most is None or count <= most:
        return examples
    return [examples[i * count // most] for i in range(most)]
