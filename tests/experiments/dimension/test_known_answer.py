"""A whole study, over server, clients and wire, of a problem whose intrinsic dimension is known.

The clients' rows make up B, (r, D), with B B^T = 1, and their loss is the mean of (b theta - y)^2 / 2. A random subspace
of d < r dimensions removes d / r of it on average, and how much exactly least squares over the columns of B A say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from typing_extensions import override

from igc.data import FederatedDataset
from igc.experiments.assemble import assemble
from igc.experiments.recipe import Recipe, load
from igc.projection import to_dense
from igc.tasks.base import Example, Task
from support.command import igc
from support.in_this_process import InThisProcess
from support.tiny import write_recipe

PER_CLIENT, CLIENTS = 16, 4
D, RANK = 512, PER_CLIENT * CLIENTS


class LinearRegression(Task):
    """One weight for each of D features, from zero."""

    name: ClassVar[str] = "linear-regression"
    metric_name: ClassVar[str] = "loss"
    higher_is_better: ClassVar[bool] = False

    @override
    def model(self) -> nn.Module:
        linear = nn.Linear(D, 1, bias=False)
        nn.init.zeros_(linear.weight)
        return linear.eval()

    @override
    def prepare(self, raw: Sequence[Any]) -> list[Example]:
        return list(raw)

    @override
    def loss(self, model: nn.Module, examples: Sequence[Example]) -> tuple[Tensor, int]:
        b = torch.stack([row for row, _ in examples])
        y = torch.stack([target for _, target in examples])
        return (model(b).squeeze(1) - y).square().sum() / 2, len(examples)

    @override
    def count(self, examples: Sequence[Example]) -> int:
        return len(examples)

    @override
    def evaluate(self, model: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        with torch.no_grad():
            total, count = self.loss(model, examples)
        return {"loss": float(total) / count}

    @property
    @override
    def reads_merged(self) -> str:
        return "import safetensors.torch; safetensors.torch.load_file(path / 'model.safetensors')"

    @override
    def save_merged(self, model: nn.Module, folder: Path) -> None:
        save_model(model, str(folder / "model.safetensors"))


def removed(recipe: Recipe, d: int, B: Tensor, y: Tensor) -> float:
    """The share of the loss that the best sigma of a recipe's subspace removes."""
    method = recipe.method.model_copy(update={"dim": d})
    A = to_dense(assemble(recipe.model_copy(update={"method": method})).method.projection)
    rest = y - B @ A @ torch.linalg.lstsq(B @ A, y).solution
    return 1 - float(rest.square().sum() / y.square().sum())


def test_the_command_finds_the_rank_of_a_quadratic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    B = torch.linalg.qr(torch.randn(D, RANK, generator=generator)).Q.T
    y = torch.randn(RANK, generator=generator)
    examples = list(zip(B, y, strict=True))
    shares = {f"client-{i}": examples[i::CLIENTS] for i in range(CLIENTS)}
    data = FederatedDataset(shares, {"validation": examples, "test": examples})
    monkeypatch.setattr("igc.experiments.compare.execute.Executor", lambda threads, deadline: InThisProcess())
    monkeypatch.setattr("igc.experiments.assemble.build_task", lambda *settings: LinearRegression())
    monkeypatch.setattr("igc.experiments.assemble.load_data", lambda recipe: data)
    recipe = write_recipe(
        tmp_path / "quadratic",
        data={"clients": CLIENTS},
        # Gradient descent on all rows. It converges where rate / r is below 2 over the largest eigenvalue of B A A^T B^T,
        # which is about (1 + sqrt(r / d))^2: 9 at d = 16.
        optimizer={"name": "sgd", "learning_rate": 0.15 * RANK},
        federation={"rounds": 250, "clients_per_round": CLIENTS, "batch_size": PER_CLIENT},
        evaluation={"every": 250},
        checkpoint={"every": 250},
    )
    arguments = ["dimension", str(recipe), "--no-tune", "--target", "0.5", "--start", "16", "--resolution", "1.1"]
    outcome = igc([*arguments, "--out", str(tmp_path / "study")], capsys, monkeypatch)
    assert outcome.code == 0, outcome.err
    study = json.loads((tmp_path / "study" / "dimension.json").read_text())
    assert study["measure"] == "gain"
    assert study["initial"] == pytest.approx(float(y.square().mean()) / 2, rel=1e-5)
    assert study["uncompressed"] < 1e-2 * study["initial"]
    # Half of the loss: r / 2 dimensions, with a standard deviation over subspaces of sqrt(r) / sqrt(2).
    assert study["d"] == pytest.approx(RANK / 2, abs=2 * (RANK / 2) ** 0.5)
    met = [point for point in study["points"] if point["d"] < RANK]  # at d = r gradient descent is far from done
    assert len(met) >= 4
    for point in met:
        assert point["quality"] == pytest.approx(removed(load(recipe), point["d"], B, y), abs=0.02), point
