"""FetchSGD and true top-k against their authors' published code, round by round on a real model.

    python benchmarks/fetchsgd.py COMMEFFICIENT CSH [--rounds N] [--json FILE]

COMMEFFICIENT is a checkout of kiddyboots216/CommEfficient, CSH one of nikitaivkin/csh; none of either is kept. Their
servers, `_server_helper_sketched` and `_server_helper_true_topk` over `CSVec`, and ours train one network (784-200-200-10,
D = 199,210, on Fashion-MNIST) from one theta_0 on the same batches of the same clients, each from where it is. Their
sketch is given the buckets and signs of ours, and takes the first of coordinates that are estimated alike, as ours does:
torch.topk leaves that open. Prints how far apart the two are, relative to how far they went.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from igc.experiments.assemble import Experiment, assemble
from igc.experiments.recipe import load
from igc.projection import CountSketch, Identity, Term

ROWS, COLUMNS, K, RATE, MOMENTUM = 5, 10_000, 2_000, 0.05, 0.9
SETTINGS = (
    f"method.k={K}",
    "optimizer.name=sgd",
    f"optimizer.momentum={MOMENTUM}",
    f"optimizer.learning_rate={RATE}",
    "optimizer.schedule=constant",
    "optimizer.warmup_rounds=0",
    "federation.clients_per_round=4",
)
METHODS = {
    "fetchsgd": ("method.name=fetchsgd", f"method.rows={ROWS}", f"method.columns={COLUMNS}"),
    "true-top-k": ("method.name=true-top-k",),
}


class Published:
    """The authors' server, holding theta - theta_0 as their code does."""

    def __init__(self, efficient: Path, csh: Path, D: int, sketch: CountSketch | None) -> None:
        sys.path.insert(0, str(csh))
        from csvec import CSVec  # type: ignore[import-not-found]  # noqa: PLC0415

        class Sketch(CSVec):  # type: ignore[misc]
            def _findHHK(self, k: int) -> tuple[Tensor, Tensor]:  # noqa: N802
                values = self._findAllValues()
                places = torch.argsort(values.abs(), descending=True, stable=True)[:k]
                return places, values[places]

        def table() -> Any:
            assert sketch is not None
            made = Sketch(d=D, c=COLUMNS, r=ROWS, doInitialize=False, device="cpu")
            made.table = torch.zeros(ROWS, COLUMNS)
            # A row of ours, expanded from 1, 2, ..., c, shows each coordinate's sign and bucket.
            signed = torch.stack([part.expand(torch.arange(1.0, COLUMNS + 1)) for part in sketch._parts])
            made.signs, made.buckets = signed.sign(), signed.abs().long() - 1
            return made

        self._args = SimpleNamespace(virtual_momentum=MOMENTUM, local_momentum=0, error_type="virtual", k=K)
        names = {"torch": torch, "args2sketch": lambda _: table()}
        names |= _functions(efficient / "CommEfficient/utils.py", names, "_topk")
        wanted = "_server_helper_true_topk" if sketch is None else "_server_helper_sketched"
        self._server = _functions(efficient / "CommEfficient/fed_aggregator.py", names, wanted)[wanted]
        self._table = None if sketch is None else table
        size = (D,) if sketch is None else (ROWS, COLUMNS)
        self._velocity, self._error = torch.zeros(size), torch.zeros(size)
        self.displacement = torch.zeros(D)

    def step(self, gradients: list[Tensor], weights: list[int]) -> None:
        """A round, of these clients' gradients (D,)."""
        sent = [weight * self._sent(gradient) for gradient, weight in zip(gradients, weights, strict=True)]
        mean = torch.stack(sent).sum(0) / sum(weights)
        update, self._velocity, self._error = self._server(mean, self._velocity, self._error, self._args, RATE)
        self.displacement -= update

    def _sent(self, gradient: Tensor) -> Tensor:
        if self._table is None:
            return gradient
        sketch = self._table()
        sketch.accumulateVec(gradient)
        table: Tensor = sketch.table
        return table


def _functions(file: Path, names: dict[str, Any], *wanted: str) -> dict[str, Any]:
    """Functions of a file whose other parts need libraries that are not there."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
    exec(compile(tree, str(file), "exec"), names)
    return {name: names[name] for name in wanted}


def compare(name: str, efficient: Path, csh: Path, rounds: int) -> dict[str, Any]:
    """Rounds of both, and how far apart they are then, at most."""
    ours = assemble(load("fashion-mnist-mlp", [*SETTINGS, *METHODS[name]]))
    projection = ours.method.projection
    D = ours.space.D
    theirs = Published(efficient, csh, D, projection if isinstance(projection, CountSketch) else None)
    worst, alike = 0.0, True
    for number in range(rounds):
        clients = ours.server.cohort(number)
        gradients, weights = [], []
        for client in clients:
            worker = ours.workplace.worker(client, number)
            worker.move_([Term(Identity(D, D, 0), theirs.displacement)])
            sketch = worker.sketch(Identity(D, D, 0))
            gradients.append(sketch.vector)
            weights.append(sketch.weight)
        theirs.step(gradients, weights)
        ours.server.run_round(ours.engine)
        at = _displacement(ours)
        worst = max(worst, float((at - theirs.displacement).norm() / theirs.displacement.norm()))
        alike = alike and torch.equal(at != 0, theirs.displacement != 0)
    moved = int((theirs.displacement != 0).sum())
    return {"method": name, "rounds": rounds, "worst": worst, "same_coordinates": alike, "coordinates": moved, "D": D}


def _displacement(experiment: Experiment) -> Tensor:
    (term,), _ = experiment.method.terms(experiment.server.state)
    sigma: Tensor = term.sigma
    return sigma


def main() -> None:
    """Train side by side, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("efficient", type=Path, metavar="COMMEFFICIENT")
    parser.add_argument("csh", type=Path, metavar="CSH")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = [compare(name, asked.efficient, asked.csh, asked.rounds) for name in METHODS]
    for row in rows:
        print(
            f"{row['method']}: {row['rounds']} rounds, theta differs by at most {row['worst']:.1e} of |theta - theta_0|; "
            f"{'the same' if row['same_coordinates'] else 'NOT the same'} {row['coordinates']:,} of {row['D']:,} "
            "coordinates changed"
        )
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
