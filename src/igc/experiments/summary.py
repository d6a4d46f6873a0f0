"""What ``summary.json`` says of a finished run."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from igc.experiments.assemble import Experiment
from igc.federation import Account
from igc.federation.protection import Spending

_PACKAGES: Final = ("intrinsic-gradient-compression", "torch", "transformers", "numpy", "safetensors")
_NUMBER_BYTES: Final = 4  # float32


def summarise(
    experiment: Experiment, records: Sequence[dict[str, Any]], spending: Spending | None = None
) -> dict[str, Any]:
    """The summary of a finished run.

    Args:
        experiment: at the end of the run.
        records: the lines of ``metrics.jsonl``.
        spending: the account of differential privacy, if there is any.
    """
    e, recipe = experiment, experiment.recipe
    ledger = e.server.ledger
    accounts = ledger.accounts.values()
    uploads, downloads = sum(a.uploads for a in accounts), sum(a.downloads for a in accounts)
    split, name = recipe.evaluation.splits[0], e.task.metric_name
    # Rounds before a change of splits may have been evaluated on others.
    evaluated = [r for r in records if split in r.get("metrics", {})]
    values = {r["round"]: r["metrics"][split][name] for r in evaluated}
    finite = {round: value for round, value in values.items() if value is not None}  # None: the run diverged
    best = (max if e.task.higher_is_better else min)(finite, key=lambda round: finite[round], default=None)
    last = evaluated[-1]
    total = ledger.up + ledger.down
    return {
        "title": recipe.title,
        "task": e.task.name,
        "method": recipe.method.name,
        "metric_name": name,
        "higher_is_better": e.task.higher_is_better,
        "split": split,
        "initial_metric": values.get(0),
        "final_metric": values[last["round"]],
        "best_metric": None if best is None else finite[best],
        "best_round": best,
        "final_metrics": last["metrics"],
        "D": e.space.D,
        "d": e.method.projection.d,
        "rounds": e.server.round,
        "clients": e.clients,
        "clients_seen": sum(a.uploads > 0 for a in accounts),
        "bytes_up": ledger.up,
        "bytes_down": ledger.down,
        "bytes_up_per_client": _mean(ledger.up, len(ledger.accounts)),
        "bytes_down_per_client": _mean(ledger.down, len(ledger.accounts)),
        "bytes_per_message_up": _mean(ledger.up, uploads),
        "bytes_per_message_down": _mean(ledger.down, downloads),
        "model_bytes": e.model_bytes,
        "factor_vs_model": e.model_bytes * (uploads + downloads) / total if total else None,
        "table": _table(e, list(accounts)),
        **_privacy(spending),
        "seconds": sum(r["seconds"] for r in records),
        "seed": recipe.seed,
        "fingerprint": e.space.fingerprint.hex(),
        "projection": e.method.projection.spec(),
        "device": e.device_name,
        "versions": _versions(),
    }


def _privacy(spending: Spending | None) -> dict[str, Any]:
    """What differential privacy was bought, if any."""
    if spending is None:
        return {}
    a = spending.accountant
    return {"epsilon": spending.epsilon, "delta": a.delta, "noise": a.mode, "amplified": a.amplified}


def _table(e: Experiment, accounts: Sequence[Account]) -> dict[str, Any]:
    """METHOD.md's table of costs (section 2) in bytes, beside what was measured with headers and all."""
    up = sum(e.method.traffic(account.uploads, 1).up for account in accounts)
    down = [e.method.traffic(account.downloads, 1).down for account in accounts]
    return {
        "predicted_up": up * _NUMBER_BYTES,
        "predicted_down": None if None in down else sum(n for n in down if n is not None) * _NUMBER_BYTES,
        "measured_up": e.server.ledger.up,
        "measured_down": e.server.ledger.down,
    }


def _mean(total: int, count: int) -> float | None:
    return total / count if count else None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
