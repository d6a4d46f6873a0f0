"""The recipe's two sides: the clients that live on a node, and the server, which has no examples to train on."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch

from igc.data import FederatedDataset
from igc.data.load import load_own
from igc.deployment.flower.settings import NodeSettings, RunSettings
from igc.errors import DataError
from igc.experiments.assemble import Experiment, assemble, dropout_of, load_data, server_data
from igc.experiments.recipe import Recipe
from igc.federation import Dropout, InProcess


class Clients(NamedTuple):
    """A node's clients, ready to answer.

    Attributes:
        names: of the clients whose data are here.
        engine: answers for each of them.
    """

    names: tuple[str, ...]
    engine: InProcess


class ServerSide(NamedTuple):
    """The server, whose engine is still to be replaced, all clients of the federation, and who is to be silent."""

    experiment: Experiment
    clients: tuple[str, ...]
    dropout: Dropout


def clients_side(recipe: Recipe, run: RunSettings, node: NodeSettings, *, shared: bool = False) -> Clients:
    """The clients of one node, their model and their data.

    Args:
        recipe: the recipe.
        run: settings of the run.
        node: settings of the node.
        shared: whether this process answers for other nodes, too, as in a simulation: the data of all are then made ready
            once.

    Raises:
        IgcError: a subclass says what does not fit.
    """
    if not shared:
        return _clients_side(recipe.to_toml(), run, node)
    everybody = _clients_side(recipe.to_toml(), run, NodeSettings(partition_id=0, num_partitions=1))
    return everybody._replace(names=node.served(everybody.names))


@lru_cache(maxsize=1)
def _clients_side(text: str, run: RunSettings, node: NodeSettings) -> Clients:
    use_threads(run)
    recipe = _here(Recipe.from_dict(tomllib.loads(text)), node)
    dataset, names = _dataset(recipe, run, node)
    apart = {name: examples if name in names else () for name, examples in dataset.clients.items()}
    one_by_one = recipe.federation.model_copy(update={"fused": False, "processes": 1, "client_dropout": 0.0})
    experiment = assemble(recipe.model_copy(update={"federation": one_by_one}), FederatedDataset(apart, {}))
    if empty := [name for name in names if not apart[name]]:
        raise DataError(f"client '{empty[0]}' has no usable example here")
    return Clients(names, cast(InProcess, experiment.engine))


def names_served(recipe: Recipe, run: RunSettings, node: NodeSettings) -> tuple[str, ...]:
    """The clients whose data a node has, without its model.

    Raises:
        IgcError: a subclass says what does not fit.
    """
    if run.roster:
        return _with_own_data(run, node)
    if node.clients:  # known without a look at the data; whether they are there, the first round shows
        return node.names
    return node.served(tuple(load_data(_here(recipe, node)).clients))


def server_side(recipe: Recipe, run: RunSettings) -> ServerSide:
    """The server: all but the examples of clients.

    Raises:
        IgcError: a subclass says what does not fit.
    """
    use_threads(run)
    dataset = server_data(recipe, run.roster)
    return ServerSide(assemble(recipe, dataset), tuple(dataset.clients), dropout_of(recipe))


def use_threads(run: RunSettings) -> None:
    """Have PyTorch use as many threads as the run says."""
    if run.threads:
        torch.set_num_threads(run.threads)


def _here(recipe: Recipe, node: NodeSettings) -> Recipe:
    """The recipe with what is elsewhere on this node."""
    changes: dict[str, Any] = {}
    if node.data is not None:
        changes["data"] = recipe.data.model_copy(update={"path": node.data})
    if node.model is not None:
        changes["model"] = recipe.model.model_copy(update={"source": node.model})
    if node.device is not None:
        changes["device"] = node.device
    return recipe.model_copy(update=changes)


def _dataset(recipe: Recipe, run: RunSettings, node: NodeSettings) -> tuple[FederatedDataset[Any], tuple[str, ...]]:
    """All clients, with examples where they are this node's; and whose are."""
    if not run.roster:
        dataset = load_data(recipe)
        return dataset, node.served(tuple(dataset.clients))
    names = _with_own_data(run, node)
    own = load_own(recipe.data, recipe.seed)
    return FederatedDataset({name: own if name in names else () for name in run.roster}, {}), names


def _with_own_data(run: RunSettings, node: NodeSettings) -> tuple[str, ...]:
    """The one client of a node that has data of its own."""
    names = node.served(run.roster)
    if len(names) != 1:
        raise DataError(
            f"node config: {len(names)} clients are said to be here, but data of a node's own are those of one client;"
            ' name it by clients="NAME"'
        )
    if node.data is None:  # not the recipe's: these hold what the server evaluates on
        raise DataError(
            f"node config: client '{names[0]}' brings data of its own (the run config names clients); say where they are"
            ' by data="FILE"'
        )
    return names
