"""Set examples aside for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from igc.data.base import Opening, Source, Text
from igc.errors import DataError

T = TypeVar("T")


class SplitOptions(BaseModel):
    """Sizes of the evaluation splits of labelled examples: a count, or a fraction of the whole when below one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    validation: float = Field(default=0.1, ge=0)
    test: float = Field(default=0.1, ge=0)


class LabelledFileOptions(SplitOptions):
    """Of a file of labelled texts.

    Attributes:
        labels: their names, in the order of their numbers, where one file need not have all of them; an empty list:
            numbers, taken as they are. ``None``: the file has all, and names are numbered in alphabetical order.
    """

    labels: tuple[str, ...] | None = None


class ValidationOptions(BaseModel):
    """Size of the validation split where the test set is given: a count, or a fraction of the training set below one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    validation: float = Field(default=5000, ge=0)


class HoldOutOptions(BaseModel):
    """What is held out of texts that belong to clients.

    Attributes:
        held_out_clients: clients never trained on, drawn at random among those with at least ``held_out_words`` words.
        held_out_words: enough for one block of most tokenizers.
        held_out_lines: fraction of a training client's last lines held out, all but one at most, where it has at least
            ``enough_lines``.
        enough_lines: clients with fewer lines train on all of them.
        lines_clients: at most this many clients' held-out lines are evaluated on, drawn at random.
        min_words: clients with fewer words than this are left out altogether: there is nothing to learn from them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    held_out_clients: int = Field(default=0, ge=0)
    held_out_words: int = Field(default=60, ge=1)
    held_out_lines: float = Field(default=0.1, ge=0, lt=1)
    enough_lines: int = Field(default=10, ge=2)
    lines_clients: int = Field(default=200, ge=0)
    min_words: int = Field(default=2, ge=1)


def split(
    examples: Sequence[T], options: SplitOptions, rng: np.random.Generator
) -> tuple[list[int], dict[str, list[T]]]:
    """Draw a test and a validation set at random.

    Returns:
        Indices of what is left to train on, ascending, and the evaluation splits, each in the order of the source.

    Raises:
        DataError: nothing is left to train on.
    """
    order = rng.permutation(len(examples))
    splits: dict[str, list[T]] = {}
    start = 0
    for name, size in (("test", options.test), ("validation", options.validation)):
        count = int(size) if size >= 1 else round(size * len(examples))
        if count:
            splits[name] = [examples[i] for i in np.sort(order[start : start + count])]
        start += count
    if start >= len(examples):
        raise DataError(f"{len(examples)} examples leave none to train on after {start} for validation and test")
    return sorted(int(i) for i in order[start:]), splits


def split_off_validation(
    train: Sequence[T], test: Sequence[T], options: ValidationOptions, rng: np.random.Generator
) -> Source[T]:
    """Draw a validation set from the training set; the test set stays as it is given.

    Raises:
        DataError: nothing is left to train on.
    """
    kept, evaluation = split(train, SplitOptions(validation=options.validation, test=0), rng)
    return Source([train[i] for i in kept], None, {**evaluation, "test": test})


def hold_out(
    texts: dict[str, list[str]], options: HoldOutOptions, rng: np.random.Generator, clients_split: str
) -> Source[Text]:
    """Set whole clients and last lines aside.

    Args:
        texts: client -> its lines, in order.
        options: how much.
        rng: draws the clients.
        clients_split: what the split of held-out clients is called; the other is ``"held-out-lines"``.

    Raises:
        DataError: fewer clients than asked for have enough words.
    """
    words = {client: sum(len(line.split()) for line in lines) for client, lines in texts.items()}
    eligible = [client for client in texts if words[client] >= options.held_out_words]
    if options.held_out_clients > max(len(eligible) - 1, 0):
        raise DataError(
            f"held_out_clients is {options.held_out_clients}, but of {len(texts)} clients only {len(eligible)} have "
            f"{options.held_out_words} words, and one must be left to train on"
        )
    held_out = {eligible[i] for i in rng.permutation(len(eligible))[: options.held_out_clients]}
    train: list[str] = []
    owners: list[str] = []
    last_lines: list[Opening] = []
    for client, lines in texts.items():
        if client in held_out or words[client] < options.min_words:
            continue
        count = round(options.held_out_lines * len(lines)) if len(lines) >= options.enough_lines else 0
        count = min(count, len(lines) - 1)  # one is left to train on
        kept = lines[: len(lines) - count]
        if count:
            last_lines.append(Opening("\n".join(lines[len(kept) :])))
        train += kept
        owners += [client] * len(kept)
    evaluation: dict[str, list[Opening]] = {}
    if held_out:
        evaluation[clients_split] = [Opening("\n".join(texts[client])) for client in texts if client in held_out]
    chosen = np.sort(rng.permutation(len(last_lines))[: options.lines_clients])
    if len(chosen):
        evaluation["held-out-lines"] = [last_lines[i] for i in chosen]
    return Source(train, owners, evaluation)
