"""What a comparison prints while it runs, and how its table names entrants."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from igc.experiments.compare.table import AtWork, _name, table


@pytest.mark.parametrize(
    ("method", "shown"),
    [
        ("static+method.dim=1024", "static\n +dim=1024"),
        ("static+optimizer.learning_rate=0.1", "static"),
        ("recipe+model.dtype=float16", "recipe\n +dtype=float16"),
        (
            'recipe+local={optimizer="adam",learning_rate=0.003}',
            'recipe\n +local={optimizer="adam",learning_rate=0.003}',
        ),
    ],
)
def test_entrants_are_named_by_their_settings(method: str, shown: str) -> None:
    assert _name({"method": method}) == shown


def test_a_probe_and_the_run_after_it_are_two_runs() -> None:
    text = io.StringIO()
    with AtWork(Console(file=text, force_terminal=False)) as at_work:
        at_work.say("static", "static, rate 0.1, seed 0", 0, 3)
        at_work.say("static", "static, rate 0.1, seed 0", 3, 3)
        at_work.say("static", "static, rate 0.1, seed 0", 0, 40)
        (bar,) = at_work._bars.tasks
    assert text.getvalue().splitlines() == [f"static, rate 0.1, seed 0, {rounds} rounds" for rounds in (3, 40)]
    assert (bar.completed, bar.total) == (0, 40)


def test_brackets_are_text() -> None:
    """In a title, in a name and in what is at work; as markup they would vanish, or end in an error."""
    name, title = 'static+space.include=["*[a-z]*"]', "tiny [a/b] [/x] c"
    line = {
        "title": title, "method": name, "budget": "rounds", "budget_bytes": None, "rounds": 4, "metric_name": "accuracy",
        "metric": None, "status": "broke down [/here]", "higher_is_better": True,
    }  # fmt: skip
    terminal = Console(file=io.StringIO(), width=200, force_terminal=True)
    (found,) = table([line])
    terminal.print(found)
    with AtWork(terminal) as at_work:
        at_work.say(name, f"{name}, rate [/x]", 0, 3)
        at_work._bars.refresh()
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    for text in (f"{title}: 4 rounds each", '+include=["*[a-z]*"]', "broke down [/here]", f"{name}, rate [/x]"):
        assert text in shown
