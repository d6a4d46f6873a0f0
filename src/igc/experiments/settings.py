"""The sections of a recipe, other than the task's, the model's and the data's own.

Each is immutable, refuses unknown keys, and says for which choices a setting has a meaning at all: K has none for the
static method, so a recipe that sets it is mistaken about what it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

MethodName = Literal[
    "static", "time-varying", "k-subspace", "k-subspace-time-varying", "fedsgd", "fedavg",
    "local-top-k", "true-top-k", "random-k", "fetchsgd", "powersgd", "decomfl",
]  # fmt: skip
ProjectionName = Literal["blocked-hadamard", "fastfood", "partition", "dense-gaussian"]

_COMPRESSED = ("static", "time-varying", "k-subspace", "k-subspace-time-varying")
_K_SUBSPACE = ("k-subspace", "k-subspace-time-varying")
_TIME_VARYING = ("time-varying", "k-subspace-time-varying")
_SPARSE = ("local-top-k", "true-top-k", "random-k", "fetchsgd")
SERVER_FEEDBACK = ("true-top-k", "fetchsgd")  # whose server keeps a momentum and an error of its own

CodecName = Literal[
    "float32", "float16", "bfloat16", "int8", "int4", "qsgd-2", "qsgd-4", "qsgd-8", "eden-1", "eden-2", "eden-3", "eden-4",
    "lloyd-1", "lloyd-2", "lloyd-3", "lloyd-4",
]  # fmt: skip

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Names = Annotated[tuple[str, ...], Field(strict=False)]  # TOML has lists; a recipe is immutable


class Section(BaseModel):
    """A part of a recipe: immutable, no unknown keys, no silent conversion (``"10"`` is not a number)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    # key -> {another key: values of it for which this one has a meaning}; those other keys are declared before it
    applies: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {}

    @classmethod
    def obstacle(cls, key: str, values: Mapping[str, Any]) -> tuple[str, tuple[str, ...]] | None:
        """Which other key in ``values``, if any, robs ``key`` of its meaning, and the values that would give it one."""
        for other, allowed in cls.applies.get(key, {}).items():
            if other in values and values[other] not in allowed:
                return other, allowed
        return None

    @field_validator("*", mode="before")
    @classmethod
    def _has_a_meaning(cls, value: object, info: ValidationInfo) -> object:
        if found := cls.obstacle(info.field_name or "", info.data):
            other, allowed = found
            raise ValueError(
                f"means nothing where {other} = {info.data[other]!r}; remove it, or set {other} to {either(allowed)}"
            )
        return value

    @model_serializer(mode="wrap")
    def _what_applies(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = handler(self)
        return {key: value for key, value in fields.items() if value is not None and not self.obstacle(key, fields)}


class SpaceSettings(Section):
    """Which tensors are trained: glob patterns on their names.

    Attributes:
        include: train only tensors that match one of these; empty: all that require a gradient.
        exclude: of those, leave out what matches one of these.
    """

    include: Names = ()
    exclude: Names = ()


class MethodSettings(Section):
    """What is sent, and how it is folded in (METHOD.md, section 2).

    Attributes:
        name: the algorithm.
        dim: d, how many numbers an upload holds.
        projection: the family of the matrix A.
        block: rows of a block of the blocked Hadamard or of Fastfood, a power of two; None: chosen from d,
            1024 for decomfl.
        subspaces: K, of the k-subspace methods.
        rounds_per_epoch: rounds that one matrix serves, of the time-varying methods; None: one pass over the clients.
        k: coordinates of an upload (local-top-k, random-k), or that a round changes (true-top-k, fetchsgd); None: D / 130.
        error_feedback: of local-top-k and powersgd: clients keep what they did not send, D numbers each.
        rows: of fetchsgd's sketch.
        columns: of each of its rows; None: D / 13.
        masking: of true-top-k and fetchsgd: momentum starts anew where the round changed a coordinate.
        rank: of powersgd's matrices.
        perturbations: of decomfl: directions of a round, and numbers of an upload.
        smoothing: of decomfl: mu, how far along a direction (with entries of variance 1) losses are compared.
        differences: of decomfl: ``central``, two losses a direction, or ``forward``, one.
    """

    applies: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        "dim": {"name": _COMPRESSED},
        "projection": {"name": (*_COMPRESSED, "decomfl")},
        "block": {"name": (*_COMPRESSED, "decomfl"), "projection": ("blocked-hadamard", "fastfood")},
        "subspaces": {"name": _K_SUBSPACE},
        "rounds_per_epoch": {"name": _TIME_VARYING},
        "k": {"name": _SPARSE},
        "error_feedback": {"name": ("local-top-k", "powersgd")},
        "rows": {"name": ("fetchsgd",)},
        "columns": {"name": ("fetchsgd",)},
        "masking": {"name": SERVER_FEEDBACK},
        "rank": {"name": ("powersgd",)},
        "perturbations": {"name": ("decomfl",)},
        "smoothing": {"name": ("decomfl",)},
        "differences": {"name": ("decomfl",)},
    }

    name: MethodName
    dim: PositiveInt = 16_384
    projection: ProjectionName = "blocked-hadamard"
    block: PositiveInt | None = None
    subspaces: PositiveInt = 4
    rounds_per_epoch: PositiveInt | None = None
    k: PositiveInt | None = None
    error_feedback: bool = True
    rows: Annotated[int, Field(ge=1, le=255)] = 5
    columns: PositiveInt | None = None
    masking: bool = True
    rank: PositiveInt = 4
    perturbations: PositiveInt = 10
    smoothing: Annotated[float, Field(gt=0)] = 1e-3
    differences: Literal["central", "forward"] = "central"

    @field_validator("block")
    @classmethod
    def _power_of_two(cls, block: int | None) -> int | None:
        if block is not None and block & (block - 1):
            raise ValueError(f"must be a power of two, not {block}; try {1 << (block.bit_length() - 1)}")
        return block


class LocalSettings(Section):
    """Local training: steps that clients take by themselves before they upload how far they came.

    Attributes:
        learning_rate: of the clients' steps. The server's optimizer then steps along the mean way of the clients: with
            sgd and ``optimizer.learning_rate`` = 1 it takes their mean, as FedAvg does.
        epochs: times that a client goes through its batch in a round.
        batch_size: examples of one step; None: all that the client drew (``federation.batch_size``).
        optimizer: the clients' update rule; it starts anew in every round.
        proximal: mu of FedProx, which pulls clients back to where the round began.
    """

    learning_rate: Annotated[float, Field(gt=0)]
    epochs: PositiveInt = 1
    batch_size: PositiveInt | None = None
    optimizer: Literal["sgd", "adam"] = "sgd"
    proximal: Annotated[float, Field(ge=0)] = 0.0


class CodecSettings(Section):
    """How vectors become bytes; counts, indices and single numbers are sent exactly.

    Attributes:
        up: of uploads.
        down: of downloads.
    """

    up: CodecName = "float32"
    down: CodecName = "float32"


class OptimizerSettings(Section):
    """The server's optimizer, on d-vectors (on parameters for fedsgd).

    Attributes:
        name: the update rule.
        learning_rate: its peak, reached after ``warmup_rounds``.
        momentum: of sgd.
        beta1: of adam, decay of the mean.
        beta2: of adam, decay of the mean square.
        epsilon: of adam, added to the root of the mean square. A coordinate of a projected gradient is about sqrt(D/d)
            times larger than one of the gradient, so the usual 1e-8 is safe where it is for parameters.
        schedule: how the learning rate falls from its peak to the last round.
        warmup_rounds: over how many rounds it rises, linearly, to its peak.
        final_fraction: share of the peak that is left at the last round.
    """

    applies: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        "momentum": {"name": ("sgd",)},
        "beta1": {"name": ("adam",)},
        "beta2": {"name": ("adam",)},
        "epsilon": {"name": ("adam",)},
        "final_fraction": {"schedule": ("linear", "cosine")},
    }

    name: Literal["sgd", "adam"]
    learning_rate: Annotated[float, Field(gt=0)]
    momentum: BelowOne = 0.0
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_rounds: Annotated[int, Field(ge=0)] = 0
    final_fraction: Fraction = 0.0


class FederationSettings(Section):
    """Who takes part in a round, and how answers are averaged.

    Attributes:
        rounds: T, how many rounds to train.
        clients_per_round: W, clients asked in a round.
        sampling: ``epoch``: without replacement, each client once an epoch; ``uniform``: anew each round.
        batch_size: examples a client draws each time; None: all that it has.
        micro_batch: examples of one forward and backward pass; None: the whole batch at once.
        client_dropout: probability that a client that was asked never answers.
        clip_norm: the largest L2 norm of a client's gradient; larger ones are scaled down to it; None: no clipping.
        weights: ``examples``: a client counts by the predictions in its batch; ``uniform``: each counts the same.
        fused: compute the gradients of a round's clients together wherever that gives the same mean (to rounding): a
            method that is linear in the gradient, weights by examples, no clipping. Messages and bytes stay the same.
        processes: worker processes that compute the clients of a round, each with its own copy of model and data and an
            equal share of PyTorch's threads; 1: this process computes them. Not used where a round is fused.
        non_finite: on a loss or upload that is NaN or infinite, ``stop`` the run or ``skip`` that client.
    """

    rounds: PositiveInt
    clients_per_round: PositiveInt
    sampling: Literal["epoch", "uniform"] = "epoch"
    batch_size: PositiveInt | None = None
    micro_batch: PositiveInt | None = None
    client_dropout: BelowOne = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    weights: Literal["examples", "uniform"] = "examples"
    fused: bool = True
    processes: PositiveInt = 1
    non_finite: Literal["skip", "stop"] = "stop"


class EvaluationSettings(Section):
    """When and on what to evaluate.

    Attributes:
        every: rounds between two evaluations; before the first and after the last round there is one in any case.
        splits: the data's evaluation splits to use; the first is the headline.
        max_examples: of each split, evaluate at most so many, evenly spaced; None: all.
    """

    every: PositiveInt = 10
    splits: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = ("test",)
    max_examples: PositiveInt | None = None


class CheckpointSettings(Section):
    """When to write a checkpoint.

    Attributes:
        every: rounds between two checkpoints; after the last round there is one in any case.
        keep: how many of the newest stay on disk.
    """

    every: PositiveInt = 10
    keep: PositiveInt = 3


def either(choices: Sequence[str]) -> str:
    """``'a', 'b' or 'c'``."""
    quoted = [f"'{choice}'" for choice in choices]
    return " or ".join(part for part in (", ".join(quoted[:-1]), *quoted[-1:]) if part)
