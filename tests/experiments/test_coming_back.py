"""What clients keep of a subspace is of use only where they come back to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from igc.errors import RecipeError
from igc.experiments.assemble import assemble
from igc.experiments.recipe import load
from support.tiny import write_recipe

FEEDBACK = {"codec": {"up": "int8", "error_feedback": True}}
CONTROLS = {"local": {"learning_rate": 0.1, "batch_size": 2, "control_variates": True}}


@pytest.mark.parametrize(
    ("kept", "key"), [(FEEDBACK, "codec.error_feedback"), (CONTROLS, "local.control_variates")], ids=["e", "c_i"]
)
def test_each_client_once_in_a_subspace_is_refused(kept: dict[str, object], key: str, tmp_path: Path) -> None:
    federation = {"weights": "uniform", "sampling": "epoch", "clients_per_round": 2}
    recipe = load(write_recipe(tmp_path, method={"name": "time-varying"}, federation=federation, **kept))
    clients = assemble(load(write_recipe(tmp_path / "static", federation=federation))).clients
    one_pass = -(-clients // 2)
    assert one_pass > 1

    def with_rounds(rounds: int) -> None:
        method = recipe.method.model_copy(update={"rounds_per_epoch": rounds})
        assemble(recipe.model_copy(update={"method": method}))

    with pytest.raises(
        RecipeError, match=f"^{key}: means nothing where each client .* more than the {one_pass} rounds"
    ):
        assemble(recipe)
    for rounds in (1, one_pass):
        with pytest.raises(RecipeError, match=key):
            with_rounds(rounds)
    with_rounds(one_pass + 1)
