"""The sections of a recipe that say whom training is protected from: ``aggregation``, ``privacy`` and ``secure``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from igc.codecs import CODECS
from igc.experiments.settings import (
    K_SUBSPACE,
    ONE_SKETCH,
    PositiveInt,
    Section,
    either,
)

if TYPE_CHECKING:
    from igc.experiments.recipe import Recipe

Positive = Annotated[float, Field(gt=0)]


class AggregationSettings(Section):
    """What becomes of a round's uploads.

    Attributes:
        rule: ``mean``; or, against clients that send anything, ``median`` or ``trimmed-mean`` of each number, or ``krum``,
            which need all uploads of a round at once and count each the same.
        byzantine: of trimmed-mean and krum: how many uploads of a round (of each subspace) may be anything.
        keep: of krum: of how many uploads the mean is taken; 1 is Krum, more is Multi-Krum.
        norm_bound: the largest L2 norm of an upload's vector; clients scale theirs down to it. None: no bound.
        max_weight: of mean with a norm bound: the most predictions that a client counts for, which the bound needs where
            ``federation.weights`` is ``examples``; clients lower theirs to it.
        over_bound: what the server does with an upload that is longer, or claims more, all the same: ``clip`` or
            ``reject``.
    """

    applies: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        "byzantine": {"rule": ("trimmed-mean", "krum")},
        "keep": {"rule": ("krum",)},
        "max_weight": {"rule": ("mean",)},
    }

    rule: Literal["mean", "median", "trimmed-mean", "krum"] = "mean"
    byzantine: PositiveInt = 1
    keep: PositiveInt = 1
    norm_bound: Positive | None = None
    max_weight: Annotated[int, Field(ge=1, lt=2**32)] | None = None
    over_bound: Literal["clip", "reject"] = "clip"


class PrivacySettings(Section):
    """Differential privacy of clients, each with all its examples.

    Attributes:
        where: who adds noise: the server, to the sum of uploads (``central``), or each client, to its own (``local``).
        noise_multiplier: z: each number's noise has standard deviation z times ``aggregation.norm_bound``.
        delta: of (epsilon, delta); well below one over the number of clients.
        epsilon: the budget: the run stops before a round that would spend more. None: spending is told, not limited.
        secret_cohorts: of central noise and uniform sampling: draw clients from the operating system's secret, not the
            recipe's seed, so that sampling hides who took part.
        seed: of noise and cohorts, for simulations and tests: whoever knows it can take the noise away. None: noise comes
            from the operating system, as it must in a deployment.
    """

    applies: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {"secret_cohorts": {"where": ("central",)}}

    where: Literal["central", "local"] = "central"
    noise_multiplier: Positive
    delta: Annotated[float, Field(gt=0, lt=1)]
    epsilon: Positive | None = None
    secret_cohorts: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None


class SecuritySettings(Section):
    """Secure aggregation: the server learns the sum of uploads and no upload. The section being there turns it on.

    Attributes:
        threshold: the share of a client's neighbours, itself included, that must stay to the end; more than half.
        shares: how many neighbours, itself included, each client has; None: all clients of the round (of its subspace).
        bits: of the quantiser; None: as many as sums of ``federation.clients_per_round`` leave of 32.
        max_weight: the most predictions that a client counts for; needed where ``federation.weights`` is ``examples``.
    """

    threshold: Annotated[float, Field(gt=0.5, le=1)] = 0.67
    shares: Annotated[int, Field(ge=3)] | None = None
    bits: Annotated[int, Field(ge=8, le=31)] | None = None
    max_weight: PositiveInt | None = None


def misfits(recipe: Recipe) -> list[tuple[str, str]]:
    """What does not go together: the key, and what to do."""
    guards = [name for name in ("privacy", "secure") if getattr(recipe, name) is not None]
    a = recipe.aggregation
    found = list(_of_the_rest(recipe, [*guards, *(["aggregation"] if a.rule != "mean" or a.norm_bound else [])]))
    for name in guards:
        if a.norm_bound is None:
            found.append((name, "needs aggregation.norm_bound, the largest norm of an upload; set it"))
        if a.rule != "mean" and (name == "secure" or (recipe.privacy and recipe.privacy.where == "central")):
            found.append(
                ("aggregation.rule", f"{a.rule} does not go with [{name}], which is about sums; set it to 'mean'")
            )
    return [*found, *_of_the_bound(recipe), *_of_privacy(recipe), *_of_security(recipe), *_of_the_rule(recipe)]


def _of_the_rest(recipe: Recipe, guards: list[str]) -> list[tuple[str, str]]:
    """What bounds, rules, noise and masks cannot be put around."""
    if not guards:
        return []
    found, name = [], guards[0]
    method, local = recipe.method, recipe.local
    if method.name not in ONE_SKETCH:
        found.append(
            (name, f"works on one vector an upload, which {method.name} does not send; use {either(ONE_SKETCH)}")
        )
    if method.scale == "calibrated":
        found.append(
            ("method.scale", f"'calibrated' has a first round that [{name}] does not cover; choose another scale")
        )
    if method.burn_in is not None:
        found.append(
            ("method.burn_in", f"has rounds with longer uploads, which [{name}] does not cover; remove one of the two")
        )
    if local is not None and local.control_variates:
        found.append(
            (name, "does not cover local.control_variates, which sends a second vector; remove one of the two")
        )
    if recipe.codec.error_feedback:
        found.append((name, "would clip what codec.error_feedback makes good later; remove one of the two"))
    return found


def _of_the_bound(recipe: Recipe) -> list[tuple[str, str]]:
    """A bound on vectors is none on a client unless its weight has one; robust rules believe no weight."""
    a, place = recipe.aggregation, "aggregation.max_weight"
    by_examples = recipe.federation.weights == "examples"
    found = []
    if a.max_weight is None:
        # Differential privacy asks for uniform weights, and secure aggregation for a largest one of its own.
        if a.norm_bound is not None and a.rule == "mean" and by_examples and not (recipe.privacy or recipe.secure):
            found.append(
                (
                    place,
                    "missing, and a norm bound with federation.weights = 'examples' needs it, since a client may claim any"
                    " weight; set the most that one counts, or federation.weights to 'uniform'",
                )
            )
    elif recipe.secure is not None:
        found.append((place, "means nothing beside [secure]; use secure.max_weight"))
    elif not by_examples:
        found.append((place, "means nothing where federation.weights = 'uniform'; remove it"))
    elif a.norm_bound is None:
        found.append((place, "means nothing without aggregation.norm_bound; set that, too, or remove it"))
    codec = recipe.codec.up
    if a.norm_bound is not None and a.over_bound == "reject" and not CODECS[codec].lossless:
        found.append(
            (
                "aggregation.over_bound",
                f"'reject' would refuse honest uploads, which codec.up = '{codec}' may lengthen once they are within the"
                " bound; set it to 'clip', or codec.up to 'float32'",
            )
        )
    return found


def _of_privacy(recipe: Recipe) -> list[tuple[str, str]]:
    p = recipe.privacy
    if p is None:
        return []
    found = []
    if recipe.federation.weights != "uniform":
        found.append(
            ("privacy", "needs weights that tell nothing and are bounded; set federation.weights to 'uniform'")
        )
    if recipe.method.change == "plateau":
        found.append(("privacy", "covers no losses, on which method.change = 'plateau' depends; set it to 'rounds'"))
    if p.secret_cohorts and recipe.federation.sampling != "uniform":
        found.append(
            ("privacy.secret_cohorts", "counts for cohorts drawn anew each round; set federation.sampling to 'uniform'")
        )
    return found


def _of_security(recipe: Recipe) -> list[tuple[str, str]]:
    s = recipe.secure
    if s is None:
        return []
    found = []
    if recipe.codec.up != "float32":
        found.append(("codec.up", "means nothing beside [secure], which has a quantiser of its own; remove it"))
    if recipe.privacy is not None and recipe.privacy.where == "central":
        found.append(
            ("privacy.where", "central noise does not go with [secure] (rounding adds to the norm); set it to 'local'")
        )
    if recipe.federation.weights == "examples" and s.max_weight is None:
        found.append(
            (
                "secure.max_weight",
                "missing, and federation.weights = 'examples' needs it; set the most that a client counts",
            )
        )
    if recipe.federation.weights == "uniform" and s.max_weight is not None:
        found.append(("secure.max_weight", "means nothing where federation.weights = 'uniform'; remove it"))
    sums = recipe.method.subspaces if recipe.method.name in K_SUBSPACE else 1
    if (cohort := recipe.federation.clients_per_round) < 3 * sums:
        found.append(
            (
                "secure",
                f"needs three clients a sum, and {cohort} make {sums}: set clients_per_round to {3 * sums} at least",
            )
        )
    return found


def _of_the_rule(recipe: Recipe) -> list[tuple[str, str]]:
    a, cohort = recipe.aggregation, recipe.federation.clients_per_round
    if recipe.method.name in K_SUBSPACE:
        cohort = cohort // recipe.method.subspaces
    least = {"trimmed-mean": 2 * a.byzantine + 1, "krum": 2 * a.byzantine + 3}.get(a.rule, 0)
    if cohort >= least:
        return []
    return [
        (
            "aggregation.byzantine",
            f"{a.rule} needs {least} uploads (of a subspace) to withstand {a.byzantine}, and {cohort} come at most;"
            " lower it or raise federation.clients_per_round",
        )
    ]
