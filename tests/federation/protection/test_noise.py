"""Gaussian noise: its law, where it comes from, and that the released mean has what was paid for."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from scipy.stats import kstest

from igc.federation.protection import GaussianNoise, NormBound, Protection
from igc.messages import Kind, decode
from igc.methods import KSubspace, Static
from igc.optim import Sgd
from support.federation import Federation, Maker


@pytest.mark.parametrize("seed", [None, 7], ids=["secret", "seeded"])
def test_noise_is_normal_with_its_standard_deviation(seed: int | None) -> None:
    noise = GaussianNoise(2.5, seed).add(torch.zeros(50_000), 3, "c1").double().numpy()
    assert kstest(noise / 2.5, "norm").pvalue > 1e-4
    assert noise.std() == pytest.approx(2.5, rel=0.03)


def test_secret_noise_never_comes_again_and_no_global_generator_has_a_part_in_it() -> None:
    draws = []
    for _ in range(2):
        torch.manual_seed(0)
        draws.append(GaussianNoise(1.0).add(torch.zeros(100), 0, "c0"))
    assert not (draws[0] == draws[1]).any()


def test_seeded_noise_comes_again_and_differs_by_round_and_name() -> None:
    noise = GaussianNoise(1.0, seed=5)
    one, again = (noise.add(torch.zeros(1000), 2, "c1") for _ in range(2))
    assert torch.equal(one, again)
    for other in (noise.add(torch.zeros(1000), 3, "c1"), noise.add(torch.zeros(1000), 2, "c2")):
        assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.15


LIMIT, Z = 0.05, 20.0


def protected(where: Literal["central", "local"], make: Maker = Static) -> Federation:
    noise = GaussianNoise(Z * LIMIT, seed=11)
    protection = Protection(bound=NormBound(LIMIT), noise=noise, where=where)
    return Federation(make, d=64, per_round=5, weights="uniform", learning_rate=1.0, protection=protection)


def test_central_noise_on_the_mean_is_that_of_the_sum_over_the_count() -> None:
    noisy = protected("central")
    bare = Federation(
        Static, d=64, per_round=5, weights="uniform", learning_rate=1.0, protection=Protection(bound=NormBound(LIMIT))
    )
    (result,), _ = noisy.run(1), bare.run(1)
    noise = (noisy.server.state.sigma - bare.server.state.sigma) * 5  # one step of size 1 along the mean of five
    assert float(noise.std()) == pytest.approx(Z * LIMIT, rel=0.3)
    assert result.loss is None  # no noise is added to it, so it is not released


def test_each_subspace_has_its_own_central_noise() -> None:
    federation = protected("central", lambda p, o: KSubspace(p, o, 2))
    federation.run(1)
    one, other = federation.server.state.sigma * 5
    for noise in (one, other):
        assert float(noise.std()) == pytest.approx(Z * LIMIT, rel=0.35)
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.5


def test_local_noise_is_on_every_upload_and_loss_and_weight_are_withheld() -> None:
    federation = protected("local")
    (result,) = federation.run(1)
    uploads = [decode(payload, federation.agreement, Kind.UPLOAD) for _, _, payload in federation.engine.up]
    assert len(uploads) == 5 and result.clients == 5 and not result.clipped
    for upload in uploads:
        assert float(upload["sketch"].norm()) == pytest.approx(Z * LIMIT * math.sqrt(64), rel=0.4)
        assert int(upload["weight"]) == 1 and float(upload["loss"]) == 0.0
    vectors = torch.stack([upload["sketch"] for upload in uploads])
    assert float((torch.corrcoef(vectors) - torch.eye(5)).abs().max()) < 0.5


def test_enough_clients_drown_the_noise() -> None:
    federation = Federation(
        Static,
        per_round=7,
        weights="uniform",
        optimizer=Sgd(),
        protection=Protection(bound=NormBound(10.0), noise=GaussianNoise(1e-9, seed=0)),
    )
    plain = Federation(Static, per_round=7, weights="uniform", optimizer=Sgd())
    federation.run(3), plain.run(3)
    torch.testing.assert_close(federation.server.state.sigma, plain.server.state.sigma, atol=1e-6, rtol=1e-4)
