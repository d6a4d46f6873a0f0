"""FetchSGD against its algorithm restated in plain NumPy, with a dense sketch matrix.

`benchmarks/fetchsgd.py` holds it, and true top-k, to their authors' own code, which is not part of this project.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from igc.methods import FetchSgd
from igc.optim import Sgd
from igc.projection import CountSketch, to_dense
from support.federation import METHODS, Federation
from support.toy import toy_gradient

ROUNDS = 10


def federation(rows: int, columns: int, k: int, rho: float, rate: float, masking: bool = True) -> Federation:
    return Federation(
        lambda p, o: FetchSgd(CountSketch(p.D, rows * columns, 7, rows=rows), k, rho, masking),
        sampling="uniform",
        learning_rate=rate,
    )


def lower_median(x: np.ndarray) -> np.ndarray:
    middle: np.ndarray = np.sort(x, axis=0)[(len(x) - 1) // 2]
    return middle


@pytest.mark.parametrize("masking", [True, False])
@pytest.mark.parametrize("rho", [0.0, 0.9])
@pytest.mark.parametrize(("rows", "columns", "k"), [(5, 40, 10), (3, 60, 5), (1, 129, 20)])
def test_the_trajectory_is_that_of_the_algorithm(rows: int, columns: int, k: int, rho: float, masking: bool) -> None:
    f = federation(rows, columns, k, rho, 0.02, masking)
    dense = to_dense(f.method.projection).double().numpy() * math.sqrt(rows)
    S = np.stack(np.split(dense, rows, axis=1)).transpose(0, 2, 1)  # (rows, columns, D)
    theta = f.base.double().numpy()
    velocity, error = np.zeros((rows, columns)), np.zeros((rows, columns))
    for number in range(ROUNDS):
        clients = f.sampler.sample(number)
        gradients = [toy_gradient(torch.from_numpy(theta), f.clients[client]).numpy() for client in clients]
        sketches = [S @ gradient for gradient in gradients]
        velocity = rho * velocity + np.average(sketches, axis=0, weights=[len(f.clients[c]) for c in clients])
        error = error + velocity
        estimate = lower_median(np.einsum("rcd,rc->rd", S, error))
        # To eight digits, so that coordinates of one bucket tie here as they do in float32: the first is taken.
        chosen = np.argsort(-np.abs(estimate.round(8)), kind="stable")[:k]
        update = np.zeros_like(theta)
        update[chosen] = estimate[chosen]
        hit = np.abs(S @ update) > 0
        error = np.where(hit, 0, error)
        velocity = np.where(hit & masking, 0, velocity)
        theta = theta - 0.02 * update
        f.run(1)
        torch.testing.assert_close(f.position().double(), torch.from_numpy(theta), rtol=1e-4, atol=1e-5)
    assert np.abs(theta - f.base.numpy()).max() > 0.01


@pytest.mark.parametrize(("rho", "masking"), [(0.0, True), (0.9, False)])
def test_a_sketch_that_loses_nothing_is_sgd_with_momentum(rho: float, masking: bool) -> None:
    D = Federation(METHODS["fedsgd"]).space.D
    plain = Federation(METHODS["fedsgd"], sampling="uniform", optimizer=Sgd(rho), learning_rate=0.05)
    sketched = federation(3, D, D, rho, 0.05, masking)
    for _ in range(ROUNDS):
        plain.run(1)
        sketched.run(1)
        torch.testing.assert_close(sketched.position(), plain.position(), rtol=1e-5, atol=1e-6)


def test_a_sketch_that_loses_nothing_is_true_top_k() -> None:
    """But that a bucket is zeroed where true top-k zeroes a coordinate: without collisions the same."""
    D = Federation(METHODS["fedsgd"]).space.D
    true = Federation(METHODS["true-top-k"], sampling="uniform", learning_rate=0.05, d=8)
    sketched = federation(1, D, 8, 0.9, 0.05)
    for _ in range(ROUNDS):
        true.run(1)
        sketched.run(1)
        torch.testing.assert_close(sketched.position(), true.position(), rtol=1e-5, atol=1e-6)
