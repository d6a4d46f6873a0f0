"""Runs under protection: recipes that do not go together, budgets that end a run, accounts that survive a kill."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from igc.errors import RecipeError, RunError
from igc.experiments.assemble import assemble
from igc.experiments.protect import JOURNAL, Journal, build_protection, build_spending, cohort_seed, digest_with
from igc.experiments.recipe import Recipe, load
from igc.experiments.run import Run
from igc.federation import Fused, InProcess
from igc.federation.protection import Protection
from support.command import igc
from support.tiny import write_recipe

PRIVATE: dict[str, Any] = {
    "federation": {"weights": "uniform", "rounds": 12},
    "aggregation": {"norm_bound": 1.0},
    "privacy": {"noise_multiplier": 2.0, "delta": 1e-3, "seed": 1},
}
BOUNDED: dict[str, Any] = {"norm_bound": 50.0, "max_weight": 6}
SECURE: dict[str, Any] = {"aggregation": {"norm_bound": 50.0}, "secure": {"max_weight": 6}}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("tiny"))


def changed(tiny: Path, *changes: dict[str, Any]) -> Recipe:
    tree = tomllib.loads(tiny.read_text())
    for change in changes:
        for section, values in change.items():
            tree[section] = {**tree.get(section, {}), **values}
    return Recipe.from_dict(tree)


class Quiet:
    """An observer that keeps what it is told."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.warnings: list[str] = []
        self.epsilons: list[float | None] = []
        self.stop_after = stop_after

    def start(self, info: object) -> None: ...

    def round(self, record: Any) -> None:
        self.epsilons.append(record.epsilon)
        if record.round == self.stop_after:
            raise KeyboardInterrupt

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def finish(self) -> None: ...


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"privacy": PRIVATE["privacy"]}, "privacy: needs aggregation.norm_bound"),
        ({**PRIVATE, "federation": {}}, "privacy: needs weights .* federation.weights to 'uniform'"),
        (
            {**PRIVATE, "aggregation": {"norm_bound": 1.0, "rule": "median"}},
            "aggregation.rule: median does not go with",
        ),
        ({**PRIVATE, "secure": {}}, "privacy.where: central noise does not go with \\[secure\\]"),
        ({**PRIVATE, "codec": {"up": "int8", "error_feedback": True}}, "would clip what codec.error_feedback"),
        (
            {**PRIVATE, "privacy": {**PRIVATE["privacy"], "secret_cohorts": True}},
            "privacy.secret_cohorts: .* federation.sampling to 'uniform'",
        ),
        (
            {**PRIVATE, "privacy": {**PRIVATE["privacy"], "where": "local", "secret_cohorts": True}},
            "privacy.secret_cohorts: means nothing where where = 'local'",
        ),
        ({**PRIVATE, "method": {"name": "time-varying", "change": "plateau"}}, "covers no losses"),
        ({**SECURE, "secure": {}}, "secure.max_weight: missing"),
        ({**SECURE, "codec": {"up": "int8"}}, "codec.up: means nothing beside \\[secure\\]"),
        ({**SECURE, "federation": {"clients_per_round": 2}}, "secure: needs three clients a sum, and 2 make 1"),
        ({**SECURE, "method": {"name": "k-subspace", "subspaces": 2}}, "needs three clients a sum, and 4 make 2"),
        ({"aggregation": {"rule": "krum"}}, "aggregation.byzantine: krum needs 5 uploads"),
        ({"aggregation": {"rule": "median", "byzantine": 2}}, "aggregation.byzantine: means nothing where rule"),
        ({"aggregation": {"norm_bound": 1.0}}, "aggregation.max_weight: missing, and a norm bound with"),
        ({"aggregation": {"max_weight": 4}}, "aggregation.max_weight: means nothing without aggregation.norm_bound"),
        ({"aggregation": {"rule": "median", "max_weight": 4}}, "aggregation.max_weight: means nothing where rule"),
        (
            {**PRIVATE, "aggregation": {"norm_bound": 1.0, "max_weight": 4}},
            "max_weight: means nothing where federation",
        ),
        ({**SECURE, "aggregation": {"norm_bound": 1.0, "max_weight": 4}}, "beside \\[secure\\]; use secure.max_weight"),
        (
            {"aggregation": {**BOUNDED, "over_bound": "reject"}, "codec": {"up": "eden-1"}},
            "aggregation.over_bound: 'reject' would refuse honest uploads, which codec.up = 'eden-1'",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_go_together_is_a_fault(tiny: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        changed(tiny, changes)


def test_methods_without_one_vector_an_upload_are_refused(tiny: Path) -> None:
    tree = load(tiny).to_dict()
    tree["method"] = {"name": "local-top-k"}
    tree["aggregation"] = BOUNDED
    with pytest.raises(RecipeError, match="works on one vector an upload, which local-top-k does not send"):
        Recipe.from_dict(tree)


def test_all_that_does_not_go_together_is_told_at_once(tiny: Path) -> None:
    with pytest.raises(RecipeError, match=r"3 faults:\n  secure: .*\n  codec.up: .*\n  secure.max_weight"):
        changed(tiny, {"secure": {}, "codec": {"up": "int8"}})


def test_protected_rounds_are_not_fused(tiny: Path) -> None:
    assert isinstance(assemble(load(tiny)).engine, Fused)
    for change in (PRIVATE, SECURE, {"aggregation": {"rule": "median"}}, {"aggregation": BOUNDED}):
        assert isinstance(assemble(changed(tiny, change)).engine, InProcess)


def test_both_sides_must_protect_alike(tiny: Path) -> None:
    bounds: list[dict[str, Any]] = [BOUNDED, {**BOUNDED, "norm_bound": 51.0}, {**BOUNDED, "max_weight": 7}]
    variants = [{}, SECURE, *({"aggregation": bound} for bound in bounds)]
    variants += [{**PRIVATE, "privacy": {**PRIVATE["privacy"], "where": "local"}}]
    digests = {digest_with(b"meth", build_protection(changed(tiny, change))) for change in variants}
    assert len(digests) == len(variants)
    assert digest_with(b"meth", Protection()) == b"meth"


def test_a_budget_ends_the_run_in_order(tiny: Path, tmp_path: Path) -> None:
    """Three cohorts an epoch; each client's fourth participation, in round 10, would cost too much."""
    three = build_spending(changed(tiny, PRIVATE), 12)
    assert three is not None
    limit = three.accountant.epsilon(0, 3) + 1e-6
    recipe = changed(tiny, PRIVATE, {"privacy": {"epsilon": limit}})
    quiet = Quiet()
    summary = Run.create(recipe, tmp_path / "run").train(quiet)
    assert summary["rounds"] == 9 and summary["epsilon"] <= limit and summary["delta"] == 1e-3
    assert quiet.warnings[-1].startswith("privacy budget: stopped after round 9 of 12")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == list(range(10)) and "metric" in lines[-1]
    assert [line["loss"] for line in lines] == [None] * 10  # nothing is added to losses, so they are withheld
    expected = [three.accountant.epsilon(0, k) for k in (1, 1, 1, 2, 2, 2, 3, 3, 3)]
    assert [line["epsilon"] for line in lines[1:]] == pytest.approx(expected)
    assert list((tmp_path / "run" / "checkpoints").glob("round-*9.ckpt"))


def test_a_budget_ends_in_exit_code_zero_and_says_so_last(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"federation.weights": "uniform", "aggregation.norm_bound": 1.0, "privacy.noise_multiplier": 2.0}
    settings |= {"privacy.delta": 1e-3, "privacy.epsilon": 2.0, "federation.rounds": 9}
    arguments = [f"--set={key}={value}" for key, value in settings.items()]
    outcome = igc(["train", str(tiny), "--out", str(tmp_path / "run"), *arguments], capsys, monkeypatch)
    assert outcome.code == 0, outcome.err
    assert "privacy budget: stopped after round 3 of 9" in outcome.err.strip().splitlines()[-1]
    assert "epsilon = 1." in outcome.out


def test_a_budget_below_one_round_is_refused_before_it(tiny: Path, tmp_path: Path) -> None:
    recipe = changed(tiny, PRIVATE, {"privacy": {"epsilon": 0.01}})
    with pytest.raises(RunError, match="does not cover a single round, which takes"):
        Run.create(recipe, tmp_path / "run").train(Quiet())
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_goes_on_with_the_same_account_and_the_same_numbers(tiny: Path, tmp_path: Path) -> None:
    recipe = changed(tiny, PRIVATE)
    straight, broken = Quiet(), Quiet(stop_after=7)
    expected = Run.create(recipe, tmp_path / "straight").train(straight)
    with pytest.raises(KeyboardInterrupt):
        Run.create(recipe, tmp_path / "broken").train(broken)
    resumed = Quiet()
    found = Run.open(tmp_path / "broken").train(resumed)
    assert broken.epsilons[:8] + resumed.epsilons == straight.epsilons
    for summary in (expected, found):
        summary.pop("seconds")
    assert found == expected


def test_a_round_that_a_kill_undid_stays_on_the_account(tiny: Path, tmp_path: Path) -> None:
    """With noise from the operating system, a round that is run again tells something new."""
    recipe = changed(tiny, PRIVATE)
    assert recipe.privacy is not None
    real = recipe.model_copy(update={"privacy": recipe.privacy.model_copy(update={"seed": None})})
    with pytest.raises(KeyboardInterrupt):
        Run.create(real, tmp_path / "run").train(Quiet(stop_after=7))
    for path in (tmp_path / "run" / "checkpoints").glob("round-*7.ckpt"):
        path.unlink()  # as if it had been a kill: the newest checkpoint is of round 6
    found = Run.open(tmp_path / "run").train(Quiet())
    lines = [json.loads(line)["round"] for line in (tmp_path / "run" / JOURNAL).read_text().splitlines()]
    assert lines == [1, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10, 11, 12]
    spending = build_spending(real, 12)
    assert spending is not None
    Journal(tmp_path / "run", spending).close()
    assert found["epsilon"] == spending.epsilon > spending.accountant.epsilon(0, 4)


@pytest.mark.parametrize("secret", [True, False])
def test_epsilon_is_never_that_of_another_number_of_clients(secret: bool, tiny: Path, tmp_path: Path) -> None:
    """Amplified by sampling among 3, six rounds cost more than seven do among 20."""
    drawn = {"privacy": {"secret_cohorts": secret}, "federation": {"sampling": "uniform" if secret else "epoch"}}
    recipe = changed(tiny, PRIVATE, drawn)
    few, many = build_spending(recipe, 6), build_spending(recipe, 20)
    assert few is not None
    assert many is not None
    journal = Journal(tmp_path, few)
    journal.begin(0, ["a", "b"])
    journal.close()
    if secret:
        with pytest.raises(RunError, match="round 1 was drawn among 6 clients, and there are 20 now"):
            Journal(tmp_path, many)
    else:  # who takes part is known, and how many there are says nothing
        Journal(tmp_path, many).close()
        assert many.epsilon == few.epsilon


def test_clients_with_local_noise_count_to_the_servers_own_budget(tiny: Path) -> None:
    """The last answer that a client gives is the last that the server's account lets it be asked for."""
    local = {"privacy": {**PRIVATE["privacy"], "where": "local"}}
    spending = build_spending(changed(tiny, PRIVATE, local), 12)
    assert spending is not None
    for most in (1, 2, 7):
        budget = spending.accountant.epsilon(0, most) + 1e-9
        recipe = changed(tiny, PRIVATE, local, {"privacy": {"epsilon": budget}})
        assert build_protection(recipe).answers == most
    assert build_protection(changed(tiny, PRIVATE, local)).answers is None
    assert build_protection(changed(tiny, PRIVATE, {"privacy": {"epsilon": 5.0}})).answers is None  # central


def test_a_run_with_local_noise_resumes_with_what_its_clients_remember(tiny: Path, tmp_path: Path) -> None:
    recipe = changed(tiny, PRIVATE, {"privacy": {"where": "local"}})
    straight = Run.create(recipe, tmp_path / "straight").train(Quiet())
    with pytest.raises(KeyboardInterrupt):
        Run.create(recipe, tmp_path / "broken").train(Quiet(stop_after=7))
    quiet = Quiet()
    resumed = Run.open(tmp_path / "broken").train(quiet)
    assert not quiet.warnings and resumed["final_metrics"] == straight["final_metrics"]


def test_secret_cohorts_are_others_each_time_and_seeded_ones_are_not(tiny: Path) -> None:
    change = {"federation": {"weights": "uniform", "sampling": "uniform"}, "aggregation": {"norm_bound": 1.0}}
    secret = changed(tiny, change, {"privacy": {"noise_multiplier": 2.0, "delta": 1e-3, "secret_cohorts": True}})
    seeded = changed(
        tiny, change, {"privacy": {"noise_multiplier": 2.0, "delta": 1e-3, "secret_cohorts": True, "seed": 3}}
    )
    assert cohort_seed(secret, 5) != cohort_seed(secret, 5)
    assert cohort_seed(seeded, 5) == cohort_seed(seeded, 5) != 5
    assert cohort_seed(changed(tiny, PRIVATE), 5) == 5
    summary = build_spending(seeded, 12)
    assert summary is not None and summary.accountant.amplified


def sigma(folder: Path) -> torch.Tensor:
    found: torch.Tensor = Run.open(folder).restore(print).server.state.sigma
    return found


@pytest.mark.parametrize("local_noise", [False, True])
def test_a_secure_run_is_the_plain_one_to_the_quantisers_step(tiny: Path, tmp_path: Path, local_noise: bool) -> None:
    change: dict[str, Any] = {"federation": {"rounds": 4}, "optimizer": {"name": "sgd", "learning_rate": 0.1}}
    bound: dict[str, Any] = {"aggregation": BOUNDED}
    plain, secure = changed(tiny, change, bound), changed(tiny, change, SECURE)
    if local_noise:
        change["federation"] = {"rounds": 4, "weights": "uniform"}
        bound = {"aggregation": SECURE["aggregation"]}
        bound["privacy"] = {**PRIVATE["privacy"], "where": "local", "noise_multiplier": 1e-3}
        plain, secure = changed(tiny, change, bound), changed(tiny, change, bound, {"secure": {}})
    quiet = Quiet()
    Run.create(plain, tmp_path / "plain").train(quiet)
    Run.create(secure, tmp_path / "secure").train(quiet)
    assert not quiet.warnings
    one, other = sigma(tmp_path / "plain"), sigma(tmp_path / "secure")
    assert one.any()
    torch.testing.assert_close(other, one, atol=1e-5, rtol=0)  # 4 rounds of steps of 50 / 2^29


def test_a_secure_run_with_drop_outs_resumes(tiny: Path, tmp_path: Path) -> None:
    recipe = changed(tiny, SECURE, {"federation": {"rounds": 6, "clients_per_round": 6, "client_dropout": 0.15}})
    straight = Run.create(recipe, tmp_path / "straight").train(Quiet())
    with pytest.raises(KeyboardInterrupt):
        Run.create(recipe, tmp_path / "broken").train(Quiet(stop_after=3))
    resumed = Run.open(tmp_path / "broken").train(Quiet())
    assert resumed["final_metrics"] == straight["final_metrics"] and resumed["bytes_up"] == straight["bytes_up"]


def test_secure_aggregation_over_worker_processes_is_the_same(tiny: Path, tmp_path: Path) -> None:
    recipe = changed(tiny, SECURE, {"federation": {"rounds": 2}})
    two = recipe.model_copy(update={"federation": recipe.federation.model_copy(update={"processes": 2})})
    for name, each in (("one", recipe), ("two", two)):
        Run.create(each, tmp_path / name).train(Quiet())
    torch.testing.assert_close(sigma(tmp_path / "two"), sigma(tmp_path / "one"), atol=1e-6, rtol=1e-4)
