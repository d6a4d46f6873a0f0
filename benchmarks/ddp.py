"""The DDP hook against PowerSGD at equal bytes, and against no compression: two Gloo processes, Fashion-MNIST.

    python benchmarks/ddp.py [--steps 600] [--seeds 2]

Trains a multilayer perceptron (784-256-128-10) by SGD with momentum 0.9, 64 examples a step and process. The learning rate
of every row is the best of a grid in steps of about 3, by validation accuracy of seed 0. What goes through `all_reduce` is
counted as the runs call it. Writes ``docs/results/ddp.json`` and prints the table of ``docs/ddp.md``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from igc import BlockedHadamard, ParameterSpace, SubspaceOptimizer, ddp
from igc.data.fashion_mnist import load_fashion_mnist
from igc.data.hold_out import ValidationOptions

OUT = Path(__file__).resolve().parent.parent / "docs" / "results" / "ddp.json"
WORLD, BATCH, MOMENTUM = 2, 64, 0.9
# PowerSGD's error feedback and warm start need two uncompressed steps (DDP rebuilds its buckets); they are counted.
POWERSGD_START = 2
EQUAL = 1956  # what PowerSGD of rank 1 sends a step with this model: the factors of three layers, and their biases

ROWS: dict[str, tuple[str, dict[str, Any], list[float]]] = {
    "uncompressed": ("", {}, [0.01, 0.03, 0.1, 0.3]),
    "PowerSGD, rank 1": ("powersgd", {}, [0.01, 0.03, 0.1, 0.3]),
    "hook, static": ("hook", {"scale": "d/D"}, [0.03, 0.1, 0.3, 1.0, 3.0]),
    "hook, fresh every step": ("hook", {"scale": "d/D", "steps_per_subspace": 1}, [0.03, 0.1, 0.3, 1.0, 3.0]),
    "hook, fresh every step, error feedback": (
        "hook",
        {"steps_per_subspace": 1, "error_feedback": True},
        [0.001, 0.003, 0.01, 0.03, 0.1],
    ),
    "Adam on sigma (`average_sigma`)": ("sigma", {}, [0.0003, 0.001, 0.003, 0.01]),
}


def model_of(seed: int) -> nn.Sequential:
    """The network with weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


def images() -> tuple[Tensor, ...]:
    """Normalised pixels (n, 784) and labels of the training, the validation and the test split."""
    source = load_fashion_mnist(None, ValidationOptions(), np.random.default_rng(0))

    def stack(examples: Any) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(np.stack([example[0] for example in examples])).flatten(1).float()
        return (pixels / 255 - 0.286) / 0.353, torch.tensor([int(example[1]) for example in examples])

    splits = (source.train, source.evaluation["validation"], source.evaluation["test"])
    return tuple(tensor for split in splits for tensor in stack(split))


@contextmanager
def counting() -> Iterator[list[int]]:
    """Collect the elements of every `all_reduce` called from Python: those of the hooks."""
    sent: list[int] = []
    original: Callable[..., Any] = dist.all_reduce

    def counted(tensor: Tensor, *args: Any, **options: Any) -> Any:
        sent.append(tensor.numel())
        return original(tensor, *args, **options)

    with mock.patch.object(dist, "all_reduce", counted):
        yield sent


def train(rank: int, row: str, rate: float, steps: int, seed: int, data: tuple[Tensor, ...]) -> dict[str, Any]:
    """One run of this replica: what it reached and what it sent."""
    x, y, valid_x, valid_y, test_x, test_y = data
    kind, options, _ = ROWS[row]
    model = model_of(seed)
    space = ParameterSpace.of(model)
    projection = BlockedHadamard(D=space.D, d=EQUAL, seed=seed)
    forward: nn.Module = model
    optimizer: Any
    if kind == "sigma":
        optimizer = SubspaceOptimizer(model, projection, lambda p: torch.optim.Adam(p, lr=rate))
        ddp.average_sigma(optimizer)
    else:
        forward = DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=MOMENTUM)
        if kind == "powersgd":
            power = powerSGD_hook.PowerSGDState(None, 1, POWERSGD_START, random_seed=seed)
            forward.register_comm_hook(power, powerSGD_hook.powerSGD_hook)
        elif kind == "hook":
            settings = options | ({"scale": EQUAL / space.D} if "scale" in options else {})
            state = ddp.SubspaceState(model, projection, **settings)
            forward.register_comm_hook(state, ddp.subspace_hook)

    order = torch.Generator().manual_seed(seed)
    began = time.perf_counter()
    losses: list[float] = []
    with counting() as sent:
        for _ in range(steps):
            before = len(sent)
            chosen = torch.randint(len(x), (WORLD * BATCH,), generator=order)[rank * BATCH : (rank + 1) * BATCH]
            loss = cross_entropy(forward(x[chosen]), y[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    seconds = time.perf_counter() - began
    with torch.no_grad():
        logits = model(test_x)
        validation = (model(valid_x).argmax(1) == valid_y).float().mean().item()
    total = sum(sent) if kind else steps * space.D
    if kind == "powersgd":
        total += POWERSGD_START * space.D - sum(n for n in sent if n == space.D)
    return {
        "row": row,
        "learning_rate": rate,
        "seed": seed,
        "numbers_last_step": sum(sent[before:]) if kind else space.D,
        "bytes_all_steps": 4 * total,
        "train_loss_last_50": float(np.mean(losses[-50:])),
        "validation_accuracy": validation,
        "test_loss": cross_entropy(logits, test_y).item(),
        "accuracy": (logits.argmax(1) == test_y).float().mean().item(),
        "seconds": seconds,
    }


def replica(rank: int, folder: str, steps: int, seeds: int) -> None:
    """One of the two processes: all rows; the first prints and writes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    data = images()
    results = []
    for row, (_, _, rates) in ROWS.items():
        tried = [train(rank, row, rate, steps, 0, data) for rate in rates]
        best = max(tried, key=lambda found: float(found["accuracy"]))[
            "learning_rate"
        ]  # replicas are bit-equal: same choice
        more = [train(rank, row, best, steps, seed, data) for seed in range(1, seeds)]
        results += [found | {"best": found["learning_rate"] == best} for found in tried + more]
        if rank == 0:
            print(line(row, results), flush=True)
    if rank == 0:
        about = {"D": ParameterSpace.of(model_of(0)).D, "steps": steps, "world": WORLD, "batch_per_process": BATCH}
        OUT.write_text(json.dumps(about | {"momentum": MOMENTUM, "runs": results}, indent=1) + "\n")
    dist.barrier()
    dist.destroy_process_group()


def line(row: str, results: list[dict[str, Any]]) -> str:
    """A row of the table, means over seeds at the best learning rate."""
    runs = [found for found in results if found["row"] == row and found["best"]]
    mean = {key: float(np.mean([found[key] for found in runs])) for key in runs[0] if key not in ("row", "best")}
    cells = (
        row,
        f"{int(mean['numbers_last_step']):,}",
        f"{mean['bytes_all_steps'] / 1e6:.1f} MB",
        str(runs[0]["learning_rate"]),
        f"{mean['train_loss_last_50']:.3f}",
        f"{mean['test_loss']:.3f}",
        f"{mean['accuracy']:.3f}",
        f"{mean['seconds']:.0f} s",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Parse, spawn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    print(
        "| | numbers a step | sent by a process, all steps | learning rate | training loss | test loss | accuracy | time |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(replica, (folder, options.steps, options.seeds), nprocs=WORLD)  # type: ignore[no-untyped-call, attr-defined]


if __name__ == "__main__":
    main()
