"""From settings to a federated dataset."""

from __future__ import annotations

from typing import Any

import numpy as np

from igc.data import partition
from igc.data.base import FederatedDataset, Source
from igc.data.settings import DataSettings
from igc.data.sources import SOURCES
from igc.errors import DataError

_HELD_OUT = ("validation", "test", "held_out_clients", "held_out_lines")  # options of sources


def load_dataset(settings: DataSettings, seed: int) -> FederatedDataset[Any]:
    """Load a source and deal it out to clients; the same settings and seed give the same value on every machine.

    Splits, partition and cap draw from generators of their own, so that another partition leaves the test set as it is.

    Raises:
        DataError: the data are missing or malformed, or cannot be dealt out as asked.
        FetchError: the data cannot be fetched.
    """
    loader = SOURCES[settings.source]
    splits, dealing, cap = (np.random.default_rng([seed, stream]) for stream in range(3))
    source = loader.load(settings.path, loader.options(**settings.options), splits)
    if not source.train:
        raise DataError(f"source '{settings.source}' has no training examples")
    parts = _deal(source, settings, dealing)
    chosen = list(parts)
    if settings.max_clients is not None and settings.max_clients < len(chosen):
        chosen = [chosen[i] for i in np.sort(cap.permutation(len(chosen))[: settings.max_clients])]
    clients = {client: [source.train[i] for i in parts[client]] for client in chosen}
    return FederatedDataset(clients, source.evaluation)


def load_own(settings: DataSettings, seed: int) -> list[Any]:
    """All examples of a client's own file, to train on: nothing is held out, and nobody there to share them with.

    Raises:
        DataError: the data are missing or malformed.
        FetchError: the data cannot be fetched.
    """
    loader = SOURCES[settings.source]
    options = loader.options(**settings.options)
    whole: dict[str, Any] = {name: 0 for name in _HELD_OUT if name in loader.options.model_fields}
    if getattr(options, "labels", ()) is None:  # this file need not have all labels, which its own would then misnumber
        whole["labels"] = ()
    own = loader.load(settings.path, options.model_copy(update=whole), np.random.default_rng(seed)).train
    if not own:
        raise DataError(f"{settings.path} has no examples")
    return list(own)


def _deal(source: Source[Any], settings: DataSettings, rng: np.random.Generator) -> dict[str, partition.Indices]:
    how = settings.partition_in_force
    if how == "natural":
        if source.owners is None:
            raise DataError(f"{settings.path} has no column 'client'; choose another partition than natural")
        return partition.natural(source.owners)
    if source.owners is not None and settings.partition is None:
        raise DataError(
            f"{settings.path} has a column 'client', so say whose rows are whose: partition = 'natural' for the file's own"
            f" clients, or '{how}' to deal them out anew"
        )
    clients = settings.clients or 0
    if how == "iid":
        parts = partition.iid(len(source.train), clients, rng)
    else:
        labels = [example.label for example in source.train]
        if how == "dirichlet":
            parts = partition.dirichlet(labels, clients, settings.alpha or 0.0, rng)
        else:
            parts = partition.by_labels(labels, clients, settings.labels_per_client or 0, rng)
    width = len(str(clients - 1))
    return {f"client-{number:0{width}d}": part for number, part in enumerate(parts)}
