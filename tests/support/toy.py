"""A task of a few hundred weights: regression by a small network, on data that are drawn, never read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from igc.tasks.base import Task
from igc.tasks.batching import device_of

INPUTS = 6


class ToyTask(Task):
    """A one-layer tanh network, fitted by least squares; examples are pairs (x (6,), y ()) of float32 tensors."""

    name = "toy"
    metric_name = "error"
    higher_is_better = False

    def __init__(self, width: int = 16, seed: int = 0) -> None:
        self.width = width
        self.seed = seed

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = nn.Sequential(nn.Linear(INPUTS, self.width), nn.Tanh(), nn.Linear(self.width, 1))
        return model.eval()

    def prepare(self, raw: Sequence[Any]) -> list[Any]:
        return list(raw)

    def loss(self, model: nn.Module, examples: Sequence[Any]) -> tuple[Tensor, int]:
        device = device_of(model)
        x = torch.stack([x for x, _ in examples]).to(device)
        y = torch.stack([y for _, y in examples]).to(device)
        return (model(x).squeeze(-1) - y).square().sum(), len(examples)

    def count(self, examples: Sequence[Any]) -> int:
        return len(examples)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, examples: Sequence[Any]) -> dict[str, float]:
        total, count = self.loss(model, examples)
        mean = float(total) / count
        return {"loss": mean, "error": mean**0.5}

    @property
    def reads_merged(self) -> str:
        return "import safetensors.torch; safetensors.torch.load_file(path / 'model.safetensors')"

    def save_merged(self, model: nn.Module, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_model(model, str(folder / "model.safetensors"))


def toy_gradient(theta: Tensor, examples: Sequence[Any]) -> Tensor:
    """The gradient of the mean loss at theta, by plain autograd, flat, in float64."""
    model = ToyTask().model().double()
    nn.utils.vector_to_parameters(theta.double().clone(), model.parameters())
    loss, count = ToyTask().loss(model, [(x.double(), y.double()) for x, y in examples])
    parts = torch.autograd.grad(loss / count, list(model.parameters()))
    return torch.cat([part.reshape(-1) for part in parts])


def toy_clients(n: int, seed: int, examples: int | Sequence[int] = (4, 7, 5)) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Clients "c0" to "c{n-1}", whose examples follow one rule with noise.

    ``examples`` is how many each has; a sequence is repeated over the clients, so that their weights differ by default.
    """
    generator = torch.Generator().manual_seed(seed)
    slope = torch.randn(INPUTS, generator=torch.Generator().manual_seed(0))  # the same rule under every seed
    sizes = [examples] if isinstance(examples, int) else list(examples)
    clients: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for i in range(n):
        x = torch.randn(sizes[i % len(sizes)], INPUTS, generator=generator)
        noise = torch.randn(len(x), generator=generator)
        y = torch.sin(x @ slope) + 0.1 * noise
        clients[f"c{i}"] = list(zip(x, y, strict=True))
    return clients
