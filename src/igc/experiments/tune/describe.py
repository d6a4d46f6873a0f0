"""What a trial tries, on a line."""

from __future__ import annotations

import math

from igc.experiments.recipe import Recipe


def describe(recipe: Recipe) -> str:
    """A recipe's tuned settings on a line."""
    m, o, c, local = recipe.method, recipe.optimizer, recipe.codec, recipe.local
    grouped = m.full or m.full_below or m.budgets
    parts = [m.name, f"d {m.dim:,}{' and groups of tensors' if grouped else ''}"]
    if m.name.startswith("k-subspace"):
        parts.append(f"K {m.subspaces}")
    if m.name.endswith("time-varying"):
        parts.append(f"fresh every {m.rounds_per_epoch or 'pass'}")
    if m.scale != "none":
        parts.append(f"scale {m.scale}{'' if m.scale == 'table' else f' to the power of {m.scale_exponent:g}'}")
    parts.append(f"{c.up}{' with error feedback' if c.error_feedback else ''} up, {c.down} down")
    if local is not None:
        batch = recipe.federation.batch_size
        if batch is None and local.batch_size is not None:
            work = f"{local.epochs} local pass{'es' if local.epochs > 1 else ''} in batches of {local.batch_size}"
        else:
            steps = 1 if local.batch_size is None or batch is None else math.ceil(batch / local.batch_size)
            steps *= local.epochs
            work = f"{steps} local step{'s' if steps > 1 else ''}"
        parts.append(f"{work} by {local.optimizer} at rate {local.learning_rate:g}")
    restarts = " restarting" if o.restarts != "never" else ""
    return ", ".join([*parts, f"{o.schedule}{restarts} rate {o.learning_rate:g}"])
