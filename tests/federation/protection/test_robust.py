"""Robust rules against plain NumPy and SciPy, and against a client that sends poison."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import trim_mean
from torch import Tensor

from igc.federation import NonFiniteError, Reply
from igc.federation.aggregate import SkippedRoundError
from igc.federation.protection import Krum, Median, NormBound, Protection, RobustMean, Rule, TrimmedMean
from igc.messages import Kind, Message, decode, encode
from igc.methods import Static
from igc.optim import Sgd
from support.federation import Federation
from support.toy import toy_clients


@st.composite
def uploads(draw: st.DrawFn, least: int = 1) -> Tensor:
    n, d, seed = draw(st.integers(least, 12)), draw(st.integers(1, 9)), draw(st.integers(0, 2**32))
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@given(uploads())
def test_the_median_is_numpys(x: Tensor) -> None:
    np.testing.assert_allclose(Median()(x).numpy(), np.median(x.double().numpy(), axis=0), rtol=1e-6)


@given(uploads(least=3), st.integers(1, 5))
def test_the_trimmed_mean_is_scipys(x: Tensor, byzantine: int) -> None:
    n = len(x)
    byzantine = min(byzantine, (n - 1) // 2)
    share = (byzantine + 0.5) / n  # SciPy rounds down to whole numbers
    np.testing.assert_allclose(
        TrimmedMean(byzantine)(x).numpy(), trim_mean(x.double().numpy(), share, axis=0), rtol=1e-5, atol=1e-7
    )


def naive_krum(x: NDArray[np.float64], f: int, m: int) -> NDArray[np.float64]:
    """Blanchard et al., section 4 and appendix: scores, number by number."""
    scores = []
    for i in range(len(x)):
        away = sorted(float(((x[i] - x[j]) ** 2).sum()) for j in range(len(x)) if j != i)
        scores.append(sum(away[: len(x) - f - 2]))
    chosen = sorted(range(len(x)), key=scores.__getitem__)[:m]
    found: NDArray[np.float64] = x[chosen].mean(axis=0)
    return found


@given(uploads(least=5), st.integers(1, 4), st.integers(1, 6))
def test_krum_is_the_papers(x: Tensor, byzantine: int, keep: int) -> None:
    byzantine = min(byzantine, (len(x) - 3) // 2)
    keep = min(keep, len(x) - byzantine)
    expected = naive_krum(x.double().numpy(), byzantine, keep)
    np.testing.assert_allclose(Krum(byzantine, keep)(x).numpy(), expected, rtol=1e-5, atol=1e-7)


def test_krum_ranks_the_others_rightly_beside_the_largest_number_there_is() -> None:
    x = torch.cat([torch.linspace(0, 1, 6)[:, None] ** 2, torch.full((1, 1), 3e38)])
    torch.testing.assert_close(Krum(1)(x), torch.from_numpy(naive_krum(x.double().numpy(), 1, 1)).float())


RULES: list[Rule] = [Median(), TrimmedMean(1), Krum(1), Krum(1, keep=4)]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_no_upload_can_carry_the_result_far_from_the_others(rule: Rule) -> None:
    honest = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    for poison in (-100 * honest.mean(0), torch.full((40,), 3e38), torch.full((40,), -1e20)):
        found = rule(torch.cat([honest, poison[None]]))
        assert (found <= honest.max(0).values + 1e-6).all() and (found >= honest.min(0).values - 1e-6).all()


def test_groups_count_by_their_share_of_the_uploads_and_weights_are_not_believed() -> None:
    mean = RobustMean(Median())
    for i, (group, number) in enumerate([(0, 1.0), (0, 2.0), (0, 9.0), (2, 5.0)]):
        mean.add(f"c{i}", group, torch.tensor([number]), weight=10.0**i, loss=[1.0, 1e30, 2.0, 3.0][i])
    means = mean.means()
    assert means is not None and means.clients == ("c0", "c1", "c2", "c3")
    assert {k: v.item() for k, v in means.groups.items()} == {0: 2.0 * 3 / 4, 2: 5.0 * 1 / 4}
    assert means.loss == 2.5


def test_too_few_uploads_are_no_ground_for_a_step() -> None:
    mean = RobustMean(Krum(1))
    assert mean.means() is None
    for i in range(4):
        mean.add(f"c{i}", 0, torch.zeros(3), 1.0, 0.0)
    with pytest.raises(SkippedRoundError, match=r"4 usable uploads, and Krum needs 5"):
        mean.means()
    federation = Federation(Static, per_round=4, protection=Protection(rule=Krum(1)))
    (result,) = federation.run(1)
    assert "Krum needs 5" in result.skipped and result.loss is None and result.asked == 4
    assert not federation.server.state.sigma.any() and federation.server.round == 1


LIMIT = 2.0  # honest uploads are about as long
HEAVIEST = 2**32 - 1  # the largest weight that fits a message
EXAMPLES = 20  # of each client
POISONS: dict[str, tuple[float, int]] = {  # by what the upload is multiplied, the weight that it claims
    "sign-flip x100": (-100.0, EXAMPLES),
    "NaN": (float("nan"), EXAMPLES),
    "huge": (1e30, EXAMPLES),
    "sign-flip, heaviest": (-1.0, HEAVIEST),
    "sign-flip x100, heaviest": (-100.0, HEAVIEST),
}
DEFENCES: dict[str, Protection] = {
    "mean": Protection(),
    "norm bound without a largest weight": Protection(NormBound(LIMIT)),
    "norm bound": Protection(NormBound(LIMIT, max_weight=EXAMPLES)),
    "median": Protection(rule=Median()),
    "trimmed-mean": Protection(rule=TrimmedMean(1)),
    "krum": Protection(rule=Krum(1, 4)),
}


def linear(clients: int, seed: int, examples: int) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Toy clients whose examples follow a rule that can be learned fast: y is the mean of x's first three numbers."""
    drawn = toy_clients(clients, seed, examples)
    return {client: [(x, x[:3].mean()) for x, _ in pairs] for client, pairs in drawn.items()}


@cache
def train(defence: str, poison: str | None) -> tuple[float, float, int]:
    """Loss before and after 40 rounds of ten clients, the first of which sends poison; and how often it was rejected."""
    federation = Federation(
        Static,
        d=64,
        clients=linear(10, seed=1, examples=EXAMPLES),
        per_round=10,
        optimizer=Sgd(0.5),
        learning_rate=0.02,
        protection=DEFENCES[defence],
    )

    def tamper(round: int, reply: Reply) -> Reply:
        if reply.client != "c0" or reply.payload is None or poison is None:
            return reply
        upload = decode(reply.payload, federation.agreement, Kind.UPLOAD)
        factor, weight = POISONS[poison]
        tensors = {**upload.tensors, "sketch": upload["sketch"] * factor, "weight": torch.tensor(weight)}
        return reply._replace(payload=encode(Message(Kind.UPLOAD, round, tensors), federation.agreement))

    federation.engine.tamper = tamper
    task = federation.workplace.task
    test = [example for examples in linear(4, seed=9, examples=50).values() for example in examples]
    before = task.evaluate(federation.model, test)["loss"]
    try:
        rejected = sum(len(result.rejected) for result in federation.run(40))
    except NonFiniteError:  # training ran away
        return before, float("inf"), 0
    federation.position()
    return before, task.evaluate(federation.model, test)["loss"], rejected


@pytest.mark.parametrize("defence", DEFENCES)
@pytest.mark.parametrize("poison", POISONS)
def test_a_poisoning_client_ruins_the_plain_mean_and_not_a_protected_one(poison: str, defence: str) -> None:
    _, clean, _ = train("mean", None)
    before, after, rejected = train(defence, poison)
    assert clean < 0.6 * before  # there is something to lose
    _, weight = POISONS[poison]
    ruined = defence == "mean" or (weight == HEAVIEST and defence == "norm bound without a largest weight")
    if poison == "NaN":  # never reaches an aggregate, whatever the rule
        assert rejected == 40
    if ruined and poison != "NaN":
        assert not after < before
    else:
        assert after < before - 0.7 * (before - clean)
