"""Norm bounding: on the client's side, and on the server's for those who do not keep to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from igc.federation import Reply
from igc.federation.engine import DROPPED
from igc.federation.protection import NormBound, Protection
from igc.messages import Kind, Message, decode, encode
from igc.methods import Static
from support.federation import Federation

LIMIT = 0.05


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20), st.floats(1e-3, 1e3))
def test_a_clipped_vector_keeps_its_direction_and_is_within_the_bound(numbers: list[float], limit: float) -> None:
    vector = torch.tensor(numbers, dtype=torch.float32)
    clipped = NormBound(limit).clip(vector)
    length = float(vector.double().norm())
    assert float(clipped.double().norm()) <= limit * (1 + 1e-6)
    expected = vector.double() if length <= limit else vector.double() / length * limit
    torch.testing.assert_close(clipped.double(), expected, rtol=1e-5, atol=1e-37)


def test_huge_numbers_whose_squares_float32_cannot_hold_are_clipped_like_others() -> None:
    clipped = NormBound(1.0).clip(torch.tensor([3e38, -3e38]))
    torch.testing.assert_close(clipped, torch.tensor([1.0, -1.0]) / 2**0.5)


def test_clients_send_what_is_within_the_bound() -> None:
    federation = Federation(Static, protection=Protection(bound=NormBound(LIMIT)))
    results = federation.run(3)
    norms = [
        float(decode(payload, federation.agreement, Kind.UPLOAD)["sketch"].norm())
        for _, _, payload in federation.engine.up
    ]
    assert max(norms) == pytest.approx(LIMIT, rel=1e-5)  # the bound is one that bites
    assert all(not result.clipped and not result.rejected for result in results)


def louder(federation: Federation, factor: float, weight: int | None = None) -> Callable[[int, Reply], Reply]:
    """A client c0 that sends a multiple of what it should, and may claim another weight."""

    def tamper(round: int, reply: Reply) -> Reply:
        if reply.client != "c0" or reply.payload is None:
            return reply
        upload = decode(reply.payload, federation.agreement, Kind.UPLOAD)
        claim = upload["weight"] if weight is None else torch.tensor(weight)
        tensors = {**upload.tensors, "sketch": upload["sketch"] * factor, "weight": claim}
        return reply._replace(payload=encode(Message(Kind.UPLOAD, round, tensors), federation.agreement))

    return tamper


@pytest.mark.parametrize("beyond", ["clip", "reject"])
def test_the_server_holds_a_client_that_does_not_clip_to_the_bound(beyond: Literal["clip", "reject"]) -> None:
    bound = NormBound(LIMIT, beyond)
    honest, loud = (Federation(Static, per_round=7, protection=Protection(bound=bound)) for _ in range(2))
    loud.engine.tamper = louder(loud, 1e6)
    (expected,), (result,) = honest.run(1), loud.run(1)
    if beyond == "clip":  # c0's upload was at the bound; a million times as long it is cut back to the same
        assert result.clipped == ("c0",) and not result.rejected and result.clients == 7
        torch.testing.assert_close(loud.server.state.sigma, honest.server.state.sigma)
        assert result.loss == expected.loss
    else:
        assert result.clients == 6 and not result.clipped
        assert "norm" in result.rejected["c0"] and "aggregation.norm_bound = 0.05" in result.rejected["c0"]


MOST = 10  # predictions; toy clients make 4 to 7 of them
HUGE = 2**32 - 1  # the largest weight that fits a message


@pytest.mark.parametrize("weights", ["examples", "uniform"])
def test_no_client_moves_the_mean_by_more_than_its_share_of_the_bound(weights: Literal["examples", "uniform"]) -> None:
    bound = NormBound(LIMIT, max_weight=MOST if weights == "examples" else None)
    protection = Protection(bound=bound)
    honest, loud = (
        Federation(Static, per_round=7, weights=weights, learning_rate=1.0, protection=protection) for _ in range(2)
    )
    loud.engine.tamper = louder(loud, -1e6, HUGE)
    honest.run(1)
    (result,) = loud.run(1)
    assert result.clipped == ("c0",) and result.clients == 7
    rest = [len(examples) for client, examples in loud.clients.items() if client != "c0"]
    share = MOST / (MOST + sum(rest)) if weights == "examples" else 1 / 7
    # Without c0's upload, the step is the mean of the others; with it, it is that mean and c0's share of the bound.
    alone = Federation(Static, per_round=7, weights=weights, learning_rate=1.0, protection=protection)
    alone.engine.tamper = lambda _, r: r._replace(payload=None, error=DROPPED) if r.client == "c0" else r
    alone.run(1)
    others = alone.server.state.sigma * (1 - share)
    assert float((loud.server.state.sigma - others).norm()) == pytest.approx(share * LIMIT, rel=1e-4)
    # Twice the bound at most lies between what it should have sent and anything else, at the largest weight.
    assert float((loud.server.state.sigma - honest.server.state.sigma).norm()) <= 2 * share * LIMIT * (1 + 1e-4)


def test_a_weight_above_the_largest_is_rejected_where_the_recipe_says_so() -> None:
    federation = Federation(Static, per_round=7, protection=Protection(bound=NormBound(LIMIT, "reject", MOST)))
    federation.engine.tamper = louder(federation, 1.0, HUGE)
    (result,) = federation.run(1)
    assert result.clients == 6 and not result.clipped
    assert result.rejected["c0"] == "the weight is 4,294,967,295, above aggregation.max_weight = 10"


@pytest.mark.parametrize("beyond", ["clip", "reject"])
def test_clients_claim_no_more_than_the_largest_weight(beyond: Literal["clip", "reject"]) -> None:
    """So that one with much data counts as one with as much as counts, and is not left out."""
    federation = Federation(Static, per_round=7, protection=Protection(bound=NormBound(LIMIT, beyond, 6)))
    (result,) = federation.run(1)
    sent = {
        c: int(decode(payload, federation.agreement, Kind.UPLOAD)["weight"]) for _, c, payload in federation.engine.up
    }
    sizes = {client: len(examples) for client, examples in federation.clients.items()}
    assert max(sizes.values()) > 6 > min(sizes.values())
    assert sent == {client: min(size, 6) for client, size in sizes.items()}
    assert result.clients == 7 and not result.clipped and not result.rejected
