"""Errors for the person at the keyboard: what was wrong, where, and what to do.

Every error that a user can cause derives from :class:`IgcError`. The command line prints its one line and ends with exit
code 2; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class IgcError(Exception):
    """Something the user can mend; ``str(error)`` is one line that says how."""


class SpaceError(IgcError):
    """A model's tensors do not form, or do not fit, a parameter space."""


class ProjectionError(IgcError):
    """A projection was asked for, or given, sizes that do not fit."""


class DataError(IgcError):
    """A data set, a partition or a client's examples cannot be used."""


class FetchError(DataError):
    """A package could not be downloaded, verified or unpacked."""


class ModelError(IgcError):
    """A model or its tokenizer cannot be found, read, or used for a task."""


class RecipeError(IgcError):
    """A recipe is unknown or invalid; the message lists every fault found."""


class RunError(IgcError):
    """A run folder cannot be written, resumed, evaluated or exported."""


class CheckpointError(RunError):
    """A checkpoint is missing or damaged."""


class AdapterError(IgcError):
    """An adapter is damaged, or was made for another model."""


class TrainingError(IgcError):
    """Training cannot go on, for instance after a loss that is not finite."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the known word nearest to ``word``, or the empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{near[0]}'?)" if near else ""
