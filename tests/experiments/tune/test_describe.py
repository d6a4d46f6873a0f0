"""The line that stands for a trial."""

from __future__ import annotations

from igc.experiments.recipe import load
from igc.experiments.tune.describe import describe


def test_it_names_what_is_tuned() -> None:
    scaled = [
        "method.scale=calibrated",
        "method.scale_exponent=-0.5",
        "optimizer.restarts=rounds",
        "optimizer.cycle=20",
    ]
    assert describe(load("movie-reviews", scaled)) == (
        "static, d 32,768, scale calibrated to the power of -0.5, eden-1 up, eden-3 down, 1 local pass in batches of 8 by"
        " adam at rate 0.0005, linear restarting rate 0.001"
    )
    table = ["method.scale=table", 'method.scale_table={"layer1.*"=2}']
    assert describe(load("fashion-mnist", table)) == (
        "static, d 81,920 and groups of tensors, scale table, eden-1 up, eden-4 down, 4 local steps by adam at rate 0.0005,"
        " linear rate 0.003"
    )
