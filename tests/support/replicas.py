"""What two DDP processes do in tests: every case in one pair of processes, whose results the tests then look at."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from typing_extensions import override

from igc import ParameterSpace, SubspaceOptimizer, ddp, make_projection
from igc.projection import Projection

WORLD, DIM, STEPS, BATCH = 2, 12, 6, 4
RATE = 0.02


class Net(nn.Module):
    """Convolutions, a frozen tensor, and a branch that is not taken."""

    def __init__(self, branch: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 3, bias=False)
        self.idle = nn.Linear(3, 2) if branch else None
        self.frozen = nn.Linear(5, 5)
        self.frozen.requires_grad_(False)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.frozen(torch.tanh(self.conv(x)).mean((2, 3)))
        out: Tensor = self.head(hidden)
        return out


def net(branch: bool = False) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Net(branch)


def batches(steps: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    """What all replicas together see in each step."""
    generator = torch.Generator().manual_seed(8)
    return [
        (torch.randn(WORLD * BATCH, 2, 5, 5, generator=generator), torch.randn(WORLD * BATCH, 3, generator=generator))
        for _ in range(steps)
    ]


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    dtype = next(model.parameters()).dtype
    loss: Tensor = (model(x.to(dtype)).float() - y).square().sum(1).mean()
    return loss


def share(batch: tuple[Tensor, Tensor], rank: int) -> tuple[Tensor, Tensor]:
    x, y = batch
    part = slice(rank * BATCH, (rank + 1) * BATCH)
    return x[part], y[part]


def projection_for(model: nn.Module, family: str = "blocked-hadamard") -> Projection:
    return make_projection(family, D=ParameterSpace.of(model).D, d=DIM, seed=4)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad])


def train(
    rank: int,
    model: nn.Module | None = None,
    *,
    data: list[tuple[Tensor, Tensor]] | None = None,
    make: Callable[[Any], torch.optim.Optimizer] = lambda p: torch.optim.SGD(p, lr=RATE),
    accumulate: int = 1,
    ddp_options: dict[str, Any] | None = None,
    load: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train with the hook; theta after each step, and the state."""
    model = model or net()
    state = ddp.SubspaceState(model, projection_for(model), **options)
    if load:
        state.load_state_dict(load)
    wrapped = DistributedDataParallel(model, **(ddp_options or {}))
    wrapped.register_comm_hook(state, ddp.subspace_hook)
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    path = []
    for index, batch in enumerate(data or batches()):
        waits = (index + 1) % accumulate != 0
        with wrapped.no_sync() if waits else nullcontext():
            loss_of(wrapped, share(batch, rank)).backward()  # type: ignore[no-untyped-call]
        if not waits:
            optimizer.step()
            optimizer.zero_grad()
            path.append(flat(model))
    return {"path": path, "state": state.state_dict(), "model": model.state_dict()}


def resumed(rank: int) -> dict[str, Any]:
    options: dict[str, Any] = {"steps_per_subspace": 1, "error_feedback": True}
    first = train(rank, data=batches()[:3], **options)
    model = net()
    model.load_state_dict(first["model"])
    return train(rank, model, data=batches()[3:], load=first["state"], **options)


def all_reduced(rank: int) -> dict[bool, list[int]]:
    """Elements of each all-reduce of one step, DDP's own included, with the hook and without."""
    found = {}
    for hooked in (True, False):
        model = net()
        wrapped = DistributedDataParallel(model)
        if hooked:
            state = ddp.SubspaceState(model, projection_for(model))
            wrapped.register_comm_hook(state, ddp.subspace_hook)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
            loss_of(wrapped, share(batches()[0], rank)).backward()  # type: ignore[no-untyped-call]
        shapes = [event.input_shapes for event in seen.events() if event.name == "gloo:all_reduce"]
        found[hooked] = [torch.Size(shape).numel() for event in shapes for shape in event]
    return found


def overflown(rank: int) -> dict[str, Any]:
    """The second of three steps overflows on one replica; as under a gradient scaler, that step is not taken."""
    model = net()
    state = ddp.SubspaceState(model, projection_for(model), steps_per_subspace=1, error_feedback=True)
    wrapped = DistributedDataParallel(model)
    wrapped.register_comm_hook(state, ddp.subspace_hook)
    errors, finite = [], []
    for step, batch in enumerate(batches()[:2]):
        factor = torch.inf if step == 1 and rank == 1 else 1.0
        (loss_of(wrapped, share(batch, rank)) * factor).backward()  # type: ignore[no-untyped-call]
        finite.append(all(p.grad.isfinite().all().item() for p in model.parameters() if p.grad is not None))
        wrapped.zero_grad()
        errors.append(state.state_dict()["error"])
    return {"errors": errors, "finite": finite}


def stranger(rank: int) -> str:
    model = net()
    state = ddp.SubspaceState(model, projection_for(model))
    wrapped = DistributedDataParallel(net())
    wrapped.register_comm_hook(state, ddp.subspace_hook)
    try:
        loss_of(wrapped, share(batches()[0], rank)).backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def sigma(rank: int) -> list[Tensor]:
    """No DDP: replicas train one sigma with Adam."""
    model = net()
    optimizer = SubspaceOptimizer(model, projection_for(model), lambda p: torch.optim.Adam(p, lr=RATE))
    ddp.average_sigma(optimizer)
    path = []
    for batch in batches():
        loss_of(model, share(batch, rank)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        path.append(flat(model))
    return path


def accelerated(rank: int) -> list[Tensor]:
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(bucket_cap_mb=1)])
    assert accelerator.num_processes == WORLD
    model = net()
    state = ddp.SubspaceState(model, projection_for(model))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    wrapped.register_comm_hook(state, ddp.subspace_hook)
    path = []
    for batch in batches():
        accelerator.backward(loss_of(wrapped, share(batch, rank)))
        optimizer.step()
        optimizer.zero_grad()
        path.append(flat(model))
    return path


def with_lightning(rank: int) -> list[Tensor]:
    import lightning
    from lightning.pytorch.strategies import DDPStrategy

    path: list[Tensor] = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        @override
        def on_fit_start(self) -> None:
            wrapped = self.trainer.strategy.model
            assert isinstance(wrapped, DistributedDataParallel)
            wrapped.register_comm_hook(ddp.SubspaceState(self.net, projection_for(self.net)), ddp.subspace_hook)

        @override
        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return loss_of(self.net, batch)

        @override
        def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
            path.append(flat(self.net))

        @override
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=RATE)

    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy=DDPStrategy(process_group_backend="gloo"),
        max_epochs=1,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # Nothing to collate: each item is this replica's batch already.
    trainer.fit(Module(), DataLoader([share(batch, rank) for batch in batches()], batch_size=None))  # type: ignore[arg-type]
    return path


FRESH: dict[str, Any] = {"steps_per_subspace": 2}
FEEDBACK: dict[str, Any] = {"steps_per_subspace": 1, "error_feedback": True}
TINY = {"bucket_cap_mb": 1e-5}  # megabytes: a bucket for each tensor


def mixed(rank: int) -> dict[str, Any]:
    model = net()
    model.conv.bfloat16()
    model.conv.register_forward_pre_hook(lambda _, inputs: (inputs[0].bfloat16(),))
    model.conv.register_forward_hook(lambda _, __, out: out.float())
    return train(rank, model)


CASES: dict[str, Callable[[int], Any]] = {
    "static": train,
    "fresh": lambda rank: train(rank, **FRESH),
    "feedback": lambda rank: train(rank, **FEEDBACK),
    "feedback in small buckets": lambda rank: train(rank, **FEEDBACK, ddp_options=TINY),
    "small buckets": lambda rank: train(rank, ddp_options=TINY),
    "bucket views": lambda rank: train(rank, ddp_options={**TINY, "gradient_as_bucket_view": True}),
    "channels last": lambda rank: train(rank, net().to(memory_format=torch.channels_last)),  # type: ignore[call-overload]
    "unused": lambda rank: train(rank, net(branch=True), ddp_options={**TINY, "find_unused_parameters": True}),
    "accumulated": lambda rank: train(rank, accumulate=2),
    "bfloat16": lambda rank: train(rank, net().bfloat16()),
    "mixed": mixed,
    "adam": lambda rank: train(rank, make=lambda p: torch.optim.Adam(p, lr=RATE)),
    "resumed": resumed,
    "all-reduced": all_reduced,
    "overflown": overflown,
    "stranger": stranger,
    "sigma": sigma,
    "accelerate": accelerated,
    "lightning": with_lightning,
}


def replica(rank: int, folder: Path) -> None:
    """One of the two processes."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(WORLD), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(WORLD))
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=WORLD)
    results = {name: case(rank) for name, case in CASES.items()}
    torch.save(results, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
