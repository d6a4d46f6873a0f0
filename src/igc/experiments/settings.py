"""The sections of a recipe, other than the task's, the model's and the data's own.

Each is immutable, refuses unknown keys, and says for which choices a setting has a meaning at all: K has none for the
static method, so a recipe that sets it is mistaken about what it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

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
_ONE_SUBSPACE = ("static", "time-varying")
K_SUBSPACE = ("k-subspace", "k-subspace-time-varying")
_TIME_VARYING = ("time-varying", "k-subspace-time-varying")
_SPARSE = ("local-top-k", "true-top-k", "random-k", "fetchsgd")
ONE_SKETCH = (*_COMPRESSED, "fedsgd", "fedavg")
_WITH_GRADIENTS = tuple(name for name in get_args(MethodName) if name != "decomfl")
ANY: Final = object()  # value of a setting: whatever turns it on
# (section, key, value): the methods for which it has a meaning
NEEDS_METHOD: Mapping[tuple[str, str, object], tuple[str, ...]] = {
    ("codec", "error_feedback", True): ONE_SKETCH,
    ("local", "control_variates", True): tuple(name for name in ONE_SKETCH if name not in K_SUBSPACE),
    ("optimizer", "restarts", "change"): _TIME_VARYING,
    ("optimizer", "momentum", ANY): _WITH_GRADIENTS,  # decomfl's moments start anew in every round
    ("federation", "clip_norm", ANY): _WITH_GRADIENTS,
}
SERVER_FEEDBACK = ("true-top-k", "fetchsgd")  # whose server keeps a momentum and an error of its own

CodecName = Literal[
    "float32", "float16", "bfloat16", "int8", "int4", "qsgd-2", "qsgd-4", "qsgd-8", "eden-1", "eden-2", "eden-3", "eden-4",
    "lloyd-1", "lloyd-2", "lloyd-3", "lloyd-4",
]  # fmt: skip

_LOSSY = tuple(name for name in get_args(CodecName) if name != "float32")

_LEARNED: Final = 4  # directions of gradients, unless a recipe says otherwise

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Proportion = Annotated[float, Field(gt=0)]
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
        if value is not None and (found := cls.obstacle(info.field_name or "", info.data)):
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
        scale: weights of the rows of A, one for each tensor, with a mean square of 1 over all parameters: ``none``; from
            the gradient's root mean square at the start, which clients measure in a first round (``calibrated``); from
            the parameters' own at the start (``weights``); or from ``scale_table`` (``table``).
        scale_exponent: of the root mean squares of calibrated and weights; below 0, what is small weighs more.
        scale_floor: of calibrated and weights: no tensor has a smaller weight, and below 0 none a smaller root mean square.
        scale_table: glob pattern of tensors' names -> proportion of their weights; the first pattern that fits counts; 1
            where none does.
        full: glob patterns of tensors that are sent in full, each parameter a dimension of its own, beside the ``dim`` of
            the others.
        full_below: so are tensors with fewer elements than this.
        budgets: glob pattern of tensors' names -> dimensions of all that fit, in place of a share of ``dim``; the first
            pattern that fits counts.
        burn_in: of static: rounds in a wide subspace, after which the subspace is made of learned directions of that one
            and of random ones; None: no burn-in.
        burn_in_dim: dimensions of the wide subspace; None: four times ``dim``.
        learned: learned directions, of ``dim``; None: 4, or as many as the burn-in has rounds, if they are fewer.
        subspaces: K, of the k-subspace methods.
        change: of the time-varying methods: fresh matrices after a number of ``rounds``, or on a ``plateau`` of the loss.
        rounds_per_epoch: rounds that one matrix serves; None: one pass over the clients. With plateau the most that it
            serves; None: no limit.
        patience: of plateau: rounds of which each of the two mean losses is taken that are compared.
        threshold: of plateau: the least fall, as a share of the loss, that is worth staying for.
        moments: what becomes of the server optimizer's moments at a change: they start anew (``reset``), mean squares stay
            (``carry-scale``), or all stay, number by number (``carry-over``).
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
        "scale": {"name": _COMPRESSED},
        "scale_exponent": {"name": _COMPRESSED, "scale": ("calibrated", "weights")},
        "scale_floor": {"name": _COMPRESSED, "scale": ("calibrated", "weights")},
        "scale_table": {"name": _COMPRESSED, "scale": ("table",)},
        "full": {"name": _ONE_SUBSPACE},
        "full_below": {"name": _ONE_SUBSPACE},
        "budgets": {"name": _ONE_SUBSPACE},
        "burn_in": {"name": ("static",)},
        "burn_in_dim": {"name": ("static",)},
        "learned": {"name": ("static",)},
        "subspaces": {"name": K_SUBSPACE},
        "change": {"name": _TIME_VARYING},
        "rounds_per_epoch": {"name": _TIME_VARYING},
        "patience": {"name": _TIME_VARYING, "change": ("plateau",)},
        "threshold": {"name": _TIME_VARYING, "change": ("plateau",)},
        "moments": {"name": _TIME_VARYING},
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
    scale: Literal["none", "calibrated", "weights", "table"] = "none"
    scale_exponent: Annotated[float, Field(ge=-2, le=2)] = 1.0
    scale_floor: Annotated[float, Field(gt=0, lt=1)] = 0.01
    scale_table: Annotated[dict[str, Proportion] | None, Field(validate_default=True, min_length=1)] = None
    full: Names = ()
    full_below: PositiveInt | None = None
    budgets: Annotated[dict[str, PositiveInt] | None, Field(min_length=1)] = None
    burn_in: PositiveInt | None = None
    burn_in_dim: PositiveInt | None = None
    learned: Annotated[PositiveInt | None, Field(validate_default=True)] = None
    subspaces: PositiveInt = 4
    change: Literal["rounds", "plateau"] = "rounds"
    rounds_per_epoch: PositiveInt | None = None
    patience: PositiveInt = 20
    threshold: Fraction = 0.01
    moments: Literal["reset", "carry-scale", "carry-over"] = "reset"
    k: PositiveInt | None = None
    error_feedback: bool = True
    rows: Annotated[int, Field(ge=1, le=255)] = 5
    columns: PositiveInt | None = None
    masking: bool = True
    rank: PositiveInt = 4
    perturbations: PositiveInt = 10
    smoothing: Annotated[float, Field(gt=0)] = 1e-3
    differences: Literal["central", "forward"] = "central"

    @field_validator("scale_exponent")
    @classmethod
    def _it_scales(cls, exponent: float) -> float:
        if exponent == 0:
            raise ValueError("0 leaves all as it is; set scale = 'none' for that")
        return exponent

    @field_validator("scale_table")
    @classmethod
    def _table_is_there(cls, table: dict[str, float] | None, info: ValidationInfo) -> dict[str, float] | None:
        if table is None and info.data.get("scale") == "table":
            raise ValueError("missing, and scale = 'table' needs it; set a pattern of names and a weight, or more")
        return table

    @field_validator("burn_in")
    @classmethod
    def _one_matrix_before(cls, burn_in: int | None, info: ValidationInfo) -> int | None:
        others = {"scale": ("calibrated",), "full": (), "full_below": (), "budgets": ()}
        for key, values in others.items():
            value = info.data.get(key)
            if burn_in is not None and (value in values if values else value):
                shown = f" = {value!r}" if values else ""
                raise ValueError(f"does not go with {key}{shown}; remove one of the two")
        return burn_in

    @field_validator("burn_in_dim", "learned")
    @classmethod
    def _of_a_burn_in(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and "burn_in" in info.data and info.data["burn_in"] is None:
            raise ValueError("means nothing without burn_in; remove it, or set burn_in to a number of rounds")
        return value

    @field_validator("learned")
    @classmethod
    def _directions_there_are(cls, learned: int | None, info: ValidationInfo) -> int | None:
        rounds = info.data.get("burn_in")
        if rounds is None:
            return learned
        k = _learned(learned, rounds)
        if k > rounds:
            raise ValueError(f"{k} directions cannot be learned in burn_in = {rounds} rounds; raise that or lower this")
        for key, most in (("dim", info.data.get("dim", k + 1) - 1), ("burn_in_dim", info.data.get("burn_in_dim") or k)):
            if k > most:
                raise ValueError(
                    f"{k} directions are too many for {key} = {info.data[key]:,}; raise that or lower this"
                )
        return learned

    @property
    def wide_dim(self) -> int:
        """Dimensions of the wide subspace."""
        return self.burn_in_dim or 4 * self.dim

    @property
    def directions(self) -> int:
        """How many directions are learned; 0 without a burn-in."""
        return 0 if self.burn_in is None else _learned(self.learned, self.burn_in)

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
        proximal: mu of FedProx, which pulls clients' models back to the one that the round began with.
        control_variates: of sgd: correct each client's steps by how its gradients differ from everybody's, as SCAFFOLD
            does; clients remember twice as many numbers as an upload has, and downloads have once as many more. Needs
            ``federation.weights`` = ``uniform``.
    """

    applies: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {"control_variates": {"optimizer": ("sgd",)}}

    learning_rate: Annotated[float, Field(gt=0)]
    epochs: PositiveInt = 1
    batch_size: PositiveInt | None = None
    optimizer: Literal["sgd", "adam"] = "sgd"
    proximal: Annotated[float, Field(ge=0)] = 0.0
    control_variates: bool = False

    @field_validator("proximal")
    @classmethod
    def _there_is_a_way_back(cls, proximal: float, info: ValidationInfo) -> float:
        if proximal and info.data.get("epochs") == 1 and info.data.get("batch_size", 0) is None:
            raise ValueError(
                "means nothing to a client's first step, and there is no other; remove it, or set local.batch_size or"
                " local.epochs for more"
            )
        return proximal

    @field_validator("control_variates")
    @classmethod
    def _one_correction(cls, control_variates: bool, info: ValidationInfo) -> bool:
        if control_variates and info.data.get("proximal"):
            raise ValueError("means nothing beside local.proximal, another cure for the same; set one of the two")
        return control_variates


class CodecSettings(Section):
    """How vectors become bytes; counts, indices and single numbers are sent exactly.

    Attributes:
        up: of uploads.
        down: of downloads.
        error_feedback: clients keep what the codec of their upload lost, and add it to the next.
    """

    applies: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {"error_feedback": {"up": _LOSSY}}

    up: CodecName = "float32"
    down: CodecName = "float32"
    error_feedback: bool = False


class OptimizerSettings(Section):
    """The server's optimizer, on d-vectors (on parameters for fedsgd).

    Attributes:
        name: the update rule.
        learning_rate: its peak, reached after ``warmup_rounds``.
        momentum: of sgd; not of decomfl, whose moments start anew in every round.
        beta1: of adam and yogi, decay of the mean.
        beta2: of adam and yogi, decay of the mean square; None: 0.999 for adam, 0.99 for yogi.
        epsilon: of adam, yogi and adagrad, added to the root of the mean square, which starts at its square in the last
            two. A coordinate of a projected gradient is about sqrt(D/d) times larger than one of the gradient, so the
            usual 1e-8 is safe where it is for parameters.
        schedule: how the learning rate falls from its peak to the last round.
        warmup_rounds: over how many rounds it rises, linearly, to its peak.
        final_fraction: share of the peak that decay comes to after the last round.
        restarts: warm restarts: the schedule begins again, warm-up included, with every ``cycle`` of ``rounds``, at every
            ``change`` of subspace, or ``never``.
        cycle: rounds from one restart to the next.
    """

    applies: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        "momentum": {"name": ("sgd",)},
        "beta1": {"name": ("adam", "yogi")},
        "beta2": {"name": ("adam", "yogi")},
        "epsilon": {"name": ("adam", "yogi", "adagrad")},
        "final_fraction": {"schedule": ("linear", "cosine")},
        "cycle": {"restarts": ("rounds",)},
    }

    name: Literal["sgd", "adam", "yogi", "adagrad"]
    learning_rate: Annotated[float, Field(gt=0)]
    momentum: BelowOne = 0.0
    beta1: BelowOne = 0.9
    beta2: BelowOne | None = None
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_rounds: Annotated[int, Field(ge=0)] = 0
    final_fraction: Fraction = 0.0
    restarts: Literal["never", "rounds", "change"] = "never"
    cycle: Annotated[PositiveInt | None, Field(validate_default=True)] = None

    @field_validator("cycle")
    @classmethod
    def _has_a_length(cls, cycle: int | None, info: ValidationInfo) -> int | None:
        if cycle is None and info.data.get("restarts") == "rounds":
            raise ValueError("missing, and restarts = 'rounds' needs it; set the rounds from one restart to the next")
        return cycle


class FederationSettings(Section):
    """Who takes part in a round, and how answers are averaged.

    Attributes:
        rounds: T, how many rounds to train.
        clients_per_round: W, clients asked in a round.
        sampling: ``epoch``: without replacement, each client once an epoch; ``uniform``: anew each round.
        batch_size: examples a client draws each time; None: all that it has.
        micro_batch: examples of one forward and backward pass; None: the whole batch at once.
        client_dropout: probability that a client that was asked never answers.
        clip_norm: the largest L2 norm of a client's gradient; larger ones are scaled down to it; None: no clipping. Not of
            decomfl, whose clients compute none.
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


def _learned(learned: int | None, rounds: int) -> int:
    return min(_LEARNED, rounds) if learned is None else learned


def matches(found: object, value: object) -> bool:
    """Whether a setting has a value of `NEEDS_METHOD`."""
    return bool(found) if value is ANY else found == value


def either(choices: Sequence[str]) -> str:
    """``'a', 'b' or 'c'``."""
    quoted = [f"'{choice}'" for choice in choices]
    return " or ".join(part for part in (", ".join(quoted[:-1]), *quoted[-1:]) if part)
