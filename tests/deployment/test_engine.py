"""A federation over Flower's messages, in this process: the same as in process, bit for bit, whatever nodes do."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from filelock import FileLock
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_res_message

from igc.deployment.flower import engine as engines
from igc.deployment.flower import server_app
from igc.deployment.flower.client_app import client_app
from igc.deployment.flower.server_app import create_or_open, train
from igc.deployment.flower.settings import NodeSettings, RunSettings
from igc.deployment.flower.sides import clients_side, names_served
from igc.deployment.flower.simulation import SETTINGS
from igc.deployment.flower.wire import RECORD, Answer, pack_answers, unpack_answers, unpack_order
from igc.errors import DataError, RunError, TrainingError
from igc.experiments import checkpoint
from igc.experiments.progress import RoundRecord, RunInfo
from igc.experiments.recipe import Recipe, load
from igc.experiments.run import Run
from igc.federation import Dropout, Request
from support.grid import RUN, FakeGrid, Node, identify
from support.tiny import write_recipe

FAST = RunSettings(deadline=0.2, patience=0.2)


class Silent:
    """An observer that keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def start(self, info: RunInfo) -> None: ...

    def round(self, record: RoundRecord) -> None: ...

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def finish(self) -> None: ...


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    identify()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(
        tmp_path_factory.mktemp("tiny"),
        method={"name": "time-varying", "dim": 32, "rounds_per_epoch": 1},
        federation={"rounds": 3, "clients_per_round": 4, "batch_size": 4, "fused": False},
        data={"clients": 6, "partition": "iid", "options": {"test": 20, "validation": 0}},
        evaluation={"every": 3},
        checkpoint={"every": 1},
    )


def federation(recipe: Path | Recipe, nodes: int = 3) -> FakeGrid:
    grid = FakeGrid()
    for number in range(nodes):
        grid.add(100 + number, client_app(recipe), {"partition-id": number, "num-partitions": nodes}, {})
    return grid


def go(
    recipe: Recipe, folder: Path, grid: FakeGrid, settings: RunSettings = FAST
) -> tuple[list[str], list[dict[str, Any]]]:
    """Train; the warnings, and what was told."""
    observer, told = Silent(), []

    def tell(event: str, **facts: Any) -> None:
        told.append({"event": event, **facts})

    train(create_or_open(recipe, folder), grid, settings, observer, tell, poll=0.01)
    return observer.warnings, told


def final(folder: Path) -> tuple[Any, dict[str, torch.Tensor], list[Any]]:
    """State, tensors and ledger at the end; what clients remember is elsewhere on Flower, and left out."""
    _, tree, tensors = checkpoint.load_latest(folder / "checkpoints", pytest.fail)
    state = json.dumps(tree["fields"]["state"])
    named = {name: tensor for name, tensor in tensors.items() if name in state}
    return tree["fields"]["state"], named, [tree["fields"]["accounts"], (folder / "ledger.jsonl").read_text()]


def assert_same(a: Path, b: Path) -> None:
    (state, tensors, ledger), (other_state, other_tensors, other_ledger) = final(a), final(b)
    assert state == other_state  # tensors by the digest of their content
    assert tensors
    assert all(torch.equal(tensors[name], other_tensors[name]) for name in tensors)
    assert ledger == other_ledger


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["method.name=static", "codec.up=int8"],
        ["method.name=k-subspace", "method.subspaces=2", "federation.client_dropout=0.4"],
        ["method.name=fedavg", "local.learning_rate=0.1", "local.epochs=2"],
    ],
    ids=["time-varying", "static-int8", "k-subspace-dropout", "fedavg"],
)
def test_state_and_ledger_equal_the_in_process_engines(settings: list[str], tiny: Path, tmp_path: Path) -> None:
    recipe = load(tiny, settings)
    Run.create(recipe, tmp_path / "here").train(Silent())
    go(recipe, tmp_path / "flower", federation(recipe))
    assert_same(tmp_path / "here", tmp_path / "flower")


def test_a_node_gets_one_message_a_round_with_the_payloads_of_its_clients_alone(tiny: Path, tmp_path: Path) -> None:
    grid = federation(tiny, nodes=2)
    go(load(tiny), tmp_path / "run", grid)
    orders = [message for message in grid.sent if message.metadata.message_type == "train"]
    assert len(orders) == 2 * 3
    names = {f"client-{i}" for i in range(6)}
    for message in orders:
        part = set(sorted(names)[message.metadata.dst_node_id - 100 :: 2])
        assert set(unpack_order(message.content).clients) <= part


def test_memory_that_is_lost_costs_a_client_one_upload_and_is_made_good(tiny: Path, tmp_path: Path) -> None:
    recipe = load(tiny, ["federation.rounds=5", "federation.clients_per_round=6"])
    grid = federation(recipe, nodes=1)
    rounds = 0

    def forgetful(message: Message, reply: Message) -> Message:
        nonlocal rounds
        if message.metadata.message_type == "train":
            rounds += 1
            if rounds == 2:
                grid.nodes[100].lose_memory()  # after the reply to round 2
        return reply

    grid.nodes[100].behave = forgetful
    warnings, _ = go(recipe, tmp_path / "run", grid)
    assert sorted(warnings) == [f"round 3: left out client 'client-{i}': missed" for i in range(6)]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["rejected"] for line in lines] == [0, 0, 0, 6, 0, 0]
    assert lines[4]["bytes_down"] > lines[3]["bytes_down"]  # all finals again


def test_memory_in_a_folder_survives_the_node(tiny: Path, tmp_path: Path) -> None:
    recipe = load(tiny, ["federation.clients_per_round=6"])
    Run.create(recipe, tmp_path / "here").train(Silent())
    grid = FakeGrid()
    config: dict[str, str | int] = {"partition-id": 0, "num-partitions": 1, "memory": str(tmp_path / "memory")}
    node = grid.add(100, client_app(recipe), config, {})

    def forgetful(message: Message, reply: Message) -> Message:
        node.lose_memory()
        return reply

    node.behave = forgetful
    warnings, _ = go(recipe, tmp_path / "flower", grid)
    assert warnings == []
    assert_same(tmp_path / "here", tmp_path / "flower")


def garbage(message: Message, reply: Message) -> Message:
    return changed(message, reply, lambda payload: b"garbage")


def flipped(message: Message, reply: Message) -> Message:
    return changed(message, reply, lambda payload: payload[:40] + bytes([payload[40] ^ 1]) + payload[41:])


def nothing(message: Message, reply: Message) -> Message:
    return Message(RecordDict(), reply_to=message)


def numbers(message: Message, reply: Message) -> Message:
    return Message(RecordDict({RECORD: ConfigRecord({"clients": [1], "payloads": 2})}), reply_to=message)


def crash(message: Message, reply: Message) -> Message:
    return Message(Error(code=2, reason="out\nof memory"), reply_to=message)


def changed(message: Message, reply: Message, change: Callable[[bytes], bytes]) -> Message:
    answers = unpack_answers(reply.content, unpack_order(message.content).clients)
    made = {name: Answer(change(answer.payload or b"")) for name, answer in answers.items()}
    return Message(pack_answers(made), reply_to=message)


@pytest.mark.parametrize(
    ("behave", "reason", "counted"),
    [
        (garbage, "not a message: starts with b'gar'", True),
        (flipped, "checksum mismatch", True),
        (nothing, "its node's answer cannot be read: no record 'igc' of settings", False),
        (numbers, "its node's answer cannot be read: 'clients' is no list of texts", False),
        (crash, "its node failed: out of memory", False),
    ],
)
def test_a_node_that_answers_nonsense_is_left_out_and_the_others_train_on(
    behave: Callable[[Message, Message], Message], reason: str, counted: bool, tiny: Path, tmp_path: Path
) -> None:
    recipe = load(tiny, ["federation.clients_per_round=6"])
    grid = federation(recipe)
    bad(grid.nodes[102], behave)
    warnings, _ = go(recipe, tmp_path / "run", grid)
    assert len(warnings) == 2 * 3
    assert all(reason in warning for warning in warnings), warnings
    alone = without(recipe, tmp_path / "alone")
    assert states(tmp_path / "run") == states(tmp_path / "alone")
    up = {name: account["fields"]["up"] for name, account in accounts(tmp_path / "run").items()}
    assert (up["client-2"] > 0) == counted  # bytes that came are in the ledger, good or not
    assert up["client-0"] == alone["client-0"]["fields"]["up"]


def test_an_old_rounds_upload_sent_again_is_refused(tiny: Path, tmp_path: Path) -> None:
    recipe = load(tiny, ["federation.clients_per_round=6"])
    grid = federation(recipe)
    kept: list[RecordDict] = []

    def replay(message: Message, reply: Message) -> Message:
        kept.append(reply.content)
        return Message(kept[0], reply_to=message)

    bad(grid.nodes[102], replay)
    warnings, _ = go(recipe, tmp_path / "run", grid)
    assert [warning.split(": ", 2)[2] for warning in warnings] == [
        text for text in ("sent for round 0 in round 1", "sent for round 0 in round 2") for _ in range(2)
    ]


@pytest.mark.parametrize(
    ("elsewhere", "reason"),
    [
        (["space.exclude=['*bias']"], "parameter space"),
        (["method.name=static"], "another method"),
        (["seed=6"], "projection"),
    ],
)
def test_a_node_with_another_recipe_is_left_out_by_its_own_word(
    elsewhere: list[str], reason: str, tiny: Path, tmp_path: Path
) -> None:
    grid = federation(tiny)
    grid.nodes[102].app = client_app(load(tiny, elsewhere))
    warnings, _ = go(load(tiny), tmp_path / "run", grid)
    assert warnings
    assert all("client-2" in warning or "client-5" in warning for warning in warnings)
    assert all(reason in warning for warning in warnings), warnings


def test_a_node_cannot_answer_for_clients_of_another(tiny: Path, tmp_path: Path) -> None:
    recipe = load(tiny, ["federation.clients_per_round=6"])
    grid = federation(recipe)

    def imposter(message: Message, reply: Message) -> Message:
        answers = unpack_answers(reply.content, unpack_order(message.content).clients)
        theirs = {"client-0": Answer(b"mine now"), **answers}
        return Message(pack_answers(theirs), reply_to=message)

    bad(grid.nodes[102], imposter)
    warnings, _ = go(recipe, tmp_path / "run", grid)
    assert warnings == []
    Run.create(recipe, tmp_path / "here").train(Silent())
    assert_same(tmp_path / "run", tmp_path / "here")


def test_a_node_that_claims_everybodys_clients_gets_none_of_them(tiny: Path, tmp_path: Path) -> None:
    recipe = load(tiny, ["federation.clients_per_round=6"])
    Run.create(recipe, tmp_path / "here").train(Silent())
    grid = federation(recipe)

    def come(message: Message, reply: Message) -> Message:
        if 99 not in grid.nodes:  # after the others, as a node that answers late has to
            bad(grid.add(99, client_app(recipe), {"partition-id": 0, "num-partitions": 1}, {}), garbage)
        return reply

    bad(grid.nodes[100], come)
    warnings, told = go(recipe, tmp_path / "run", grid)
    assert any("node 99 claims 6 clients that others have" in event.get("text", "") for event in told)
    assert warnings == []
    assert not [m for m in grid.sent if m.metadata.message_type == "train" and m.metadata.dst_node_id == 99]
    assert_same(tmp_path / "run", tmp_path / "here")


def test_with_an_allowlist_it_does_not_matter_who_answers_first(tiny: Path, tmp_path: Path) -> None:
    recipe = load(tiny, ["federation.clients_per_round=6"])
    Run.create(recipe, tmp_path / "here").train(Silent())
    grid = FakeGrid()
    bad(grid.add(99, client_app(recipe), {"partition-id": 0, "num-partitions": 1}, {}), garbage)
    grid.nodes |= federation(recipe).nodes
    owners = "100: client-0, client-3\n101: client-[14]\n102: client-2, client-5"
    go(recipe, tmp_path / "run", grid, FAST.model_copy(update={"owners": owners}))
    assert_same(tmp_path / "run", tmp_path / "here")


@pytest.mark.parametrize("word", ["absent", "dropped"])
def test_a_node_cannot_talk_its_download_out_of_the_ledger_nor_its_refusal_away(
    word: str, tiny: Path, tmp_path: Path
) -> None:
    def talk(message: Message, reply: Message) -> Message:
        asked = unpack_order(message.content).clients
        return Message(pack_answers(dict.fromkeys(asked, Answer(None, word))), reply_to=message)

    recipe = load(tiny, ["federation.clients_per_round=6"])
    grid = federation(recipe)
    bad(grid.nodes[102], talk)
    warnings, _ = go(recipe, tmp_path / "run", grid)
    assert sorted(warnings)[:2] == [f"round 1: left out client 'client-{i}': its node says: {word}" for i in (2, 5)]
    assert all(account["fields"]["downloads"] == 3 for account in accounts(tmp_path / "run").values())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["rejected"], line["dropped"]) for line in lines[1:]] == [(2, 0)] * 3


@pytest.mark.parametrize("has_left", [True, False])
def test_that_nobody_answered_is_the_superlinks_to_say(has_left: bool, tiny: Path, tmp_path: Path) -> None:
    """A node can write to the letter what the SuperLink does; it cannot leave and be there."""

    def silence(message: Message, reply: Message) -> Message:
        if has_left:
            del grid.nodes[102]
        return create_message_error_unavailable_res_message(message.metadata, "node_unavail")

    recipe = load(tiny, ["federation.clients_per_round=6", "federation.rounds=1"])
    grid = federation(recipe)
    bad(grid.nodes[102], silence)
    warnings, _ = go(recipe, tmp_path / "run", grid, FAST.model_copy(update={"deadline": 60.0}))
    (line,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()][1:]
    assert (line["dropped"], line["rejected"]) == ((2, 0) if has_left else (0, 2))
    assert len(warnings) == line["rejected"]


def test_stragglers_are_dropped_at_the_deadline_and_count_as_sent(tiny: Path, tmp_path: Path) -> None:
    recipe = load(tiny, ["federation.clients_per_round=6", "federation.rounds=2"])
    grid = federation(recipe)
    bad(grid.nodes[102], lambda message, reply: None)
    warnings, told = go(recipe, tmp_path / "run", grid)
    assert warnings == []
    late = [event for event in told if event["event"] == "late"]
    assert [set(event["clients"]) for event in late] == [{"client-2", "client-5"}] * 2
    account = accounts(tmp_path / "run")["client-2"]["fields"]
    assert (account["downloads"], account["uploads"]) == (2, 0)


def test_clients_of_a_node_that_left_are_sent_nothing_and_charged_nothing(tiny: Path, tmp_path: Path) -> None:
    recipe = load(tiny, ["federation.clients_per_round=6"])
    grid = federation(recipe)
    leave_after(grid, 102, rounds=1)
    _, told = go(recipe, tmp_path / "run", grid)
    assert [event["node"] for event in told if event["event"] == "node-left"] == [102]
    found = accounts(tmp_path / "run")
    assert found["client-2"]["fields"]["downloads"] == 1
    assert found["client-0"]["fields"]["downloads"] == 3
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["dropped"] for line in lines] == [0, 0, 2, 2]


def test_with_nobody_left_training_stops_and_goes_on_later(tiny: Path, tmp_path: Path) -> None:
    recipe = load(tiny, ["federation.clients_per_round=6"])
    grid = federation(recipe, nodes=1)
    leave_after(grid, 100, rounds=2)
    with pytest.raises(TrainingError, match=r"round 3: none of its 6 clients came within 0\.2 s"):
        go(recipe, tmp_path / "run", grid)
    go(recipe, tmp_path / "run", back := federation(recipe, nodes=1))
    # The new node remembers nothing: round 3 is spent on finding out.
    assert {message.metadata.group_id for message in back.sent} == {"", "3"}
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["rounds"] == 3


def test_too_few_clients_to_begin_leave_no_run_behind(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"4 of 6 clients came within 0\.2 s, and quorum is 6"):
        grid = federation(tiny)
        del grid.nodes[102]
        go(load(tiny), tmp_path / "run", grid)
    assert not (tmp_path / "run" / "recipe.toml").exists()
    go(load(tiny), tmp_path / "run", grid, FAST.model_copy(update={"quorum": 4}))


def test_another_recipe_does_not_go_on_with_a_run(tiny: Path, tmp_path: Path) -> None:
    go(load(tiny), tmp_path / "run", federation(tiny))
    with pytest.raises(RunError, match="holds a run of another recipe"):
        create_or_open(load(tiny, ["seed=6"]), tmp_path / "run")


def test_a_second_server_leaves_the_first_alone(tiny: Path, tmp_path: Path) -> None:
    """What `igc federation status` reads, and the recipe, are those of the one that trains."""
    folder = tmp_path / "run"
    go(load(tiny), folder, federation(tiny))
    before = (folder / "recipe.toml").read_text()
    with FileLock(folder / ".lock"), pytest.raises(RunError, match="another process is training in"):
        create_or_open(load(tiny, ["federation.rounds=4"]), folder)
    assert (folder / "recipe.toml").read_text() == before
    assert create_or_open(load(tiny, ["federation.rounds=4"]), folder).recipe.federation.rounds == 4


def test_a_server_without_a_split_to_evaluate_on_says_so_at_once(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the data have no split 'test'; they have none"):
        go(load(tiny, ["data.options.test=0"]), tmp_path / "run", federation(tiny))
    assert not (tmp_path / "run" / "recipe.toml").exists()


def test_clients_with_data_of_their_own(tiny: Path, tmp_path: Path) -> None:
    rows = (tiny.parent / "data.csv").read_text().splitlines()
    recipe = load(tiny, ["federation.clients_per_round=2", "data.options.test=60"])
    settings = FAST.model_copy(update={"clients": "left, right"})
    grid = FakeGrid()
    ones = [row for row in rows[1:] if row.endswith(",1")][:40]  # fewer than the recipe holds out, of one label alone
    for number, (name, part) in enumerate({"left": ones, "right": rows[120:]}.items()):
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join([rows[0], *part]) + "\n")
        run_config: dict[str, object] = {"clients": "left, right"}
        grid.add(100 + number, client_app(recipe), {"clients": name, "data": str(path)}, run_config)
    warnings, _ = go(recipe, tmp_path / "run", grid, settings)
    assert warnings == []
    assert accounts(tmp_path / "run").keys() == {"left", "right"}


OWN = FAST.model_copy(update={"clients": "left, right"})


def of_their_own(recipe: Recipe, folder: Path, tiny: Path) -> FakeGrid:
    """A node for each of two clients, with a file."""
    rows, grid = (tiny.parent / "data.csv").read_text().splitlines(), FakeGrid()
    for number, (name, part) in enumerate({"left": rows[1:80], "right": rows[120:]}.items()):
        path = folder / f"{name}.csv"
        path.write_text("\n".join([rows[0], *part]) + "\n")
        config: dict[str, str | int] = {"clients": name, "data": str(path)}
        grid.add(100 + number, client_app(recipe), config, {"clients": OWN.clients})
    return grid


@pytest.mark.parametrize("method", ["time-varying", "static", "k-subspace"])
def test_a_run_of_clients_with_data_of_their_own_is_read_like_any_other(
    method: str, tiny: Path, tmp_path: Path
) -> None:
    """A pass over two clients is not one over the recipe's six, on which methods depend."""
    recipe = load(tiny, [f"method.name={method}", "federation.clients_per_round=2"])
    recipe = recipe.model_copy(update={"method": recipe.method.model_copy(update={"rounds_per_epoch": None})})
    go(recipe, tmp_path / "run", of_their_own(recipe, tmp_path, tiny), OWN)
    run = Run.open(tmp_path / "run")
    experiment = run.restore(pytest.fail)
    split, name = recipe.evaluation.splits[0], experiment.task.metric_name
    assert experiment.evaluate()[split][name] == run.summary["final_metric"]


def test_a_run_of_clients_with_data_of_their_own_does_not_go_on_with_others(tiny: Path, tmp_path: Path) -> None:
    recipe = load(tiny, ["federation.clients_per_round=2"])
    go(recipe, tmp_path / "run", of_their_own(recipe, tmp_path, tiny), OWN)
    longer = load(tiny, ["federation.clients_per_round=2", "federation.rounds=5"])
    run = Run.open(tmp_path / "run").change(longer)
    with pytest.raises(RunError, match=r"2 clients with data of their own .*`flwr run`"):
        run.train(Silent())
    with pytest.raises(RunError, match="2 clients with data of their own"):
        go(longer, tmp_path / "run", federation(longer))
    go(longer, tmp_path / "run", of_their_own(longer, tmp_path, tiny), OWN)
    assert accounts(tmp_path / "run").keys() == {"left", "right"}


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"clients": "left"}, "'left' brings data of its own .* data="),
        ({"partition-id": 0, "num-partitions": 2}, "'left' brings data of its own .* data="),
        ({"partition-id": 0, "num-partitions": 1, "data": "x.csv"}, "2 clients are said to be here"),
    ],
)
def test_a_client_with_data_of_its_own_never_trains_on_the_servers(
    config: dict[str, Any], fault: str, tiny: Path
) -> None:
    """The recipe's data hold what the server evaluates on. It shows at the roll call, before any round."""
    node = NodeSettings.read(config, "node config")
    for asked in (names_served, clients_side):
        with pytest.raises(DataError, match=fault):
            asked(load(tiny), RunSettings(clients="left,right"), node)


def test_a_run_whose_uploads_never_count_does_not_finish(tiny: Path, tmp_path: Path) -> None:
    recipe, other = load(tiny, ["federation.rounds=8"]), load(tiny, ["federation.rounds=8", "seed=6"])
    with pytest.raises(TrainingError, match=r"no upload counted in 3 rounds in a row.*left out client.*all nodes"):
        go(recipe, tmp_path / "run", federation(other))
    go(recipe, tmp_path / "run", federation(recipe))  # mended, it goes on from there
    mixed = federation(other, nodes=1)
    mixed.add(200, client_app(recipe), {"partition-id": 1, "num-partitions": 2}, {})
    mixed.nodes[100].context.node_config["num-partitions"] = 2
    warnings, _ = go(recipe, tmp_path / "mixed", mixed)  # one that counts is enough
    assert any("left out client" in warning for warning in warnings)


def with_memory(recipe: Recipe, folder: Path) -> FakeGrid:
    grid = FakeGrid()
    for number in range(2):
        config: dict[str, str | int] = {
            "partition-id": number,
            "num-partitions": 2,
            "memory": str(folder / f"{number}"),
        }
        grid.add(100 + number, client_app(recipe), config, {})
    return grid


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ([], True),
        (["method.name=static", "codec.up=int8"], True),
        (["method.name=k-subspace", "method.subspaces=2"], True),
        (["method.name=fedavg", "local.learning_rate=0.1", "local.epochs=2"], True),
        (["method.name=static", "codec.up=lloyd-1", "codec.error_feedback=true"], False),
    ],
    ids=["time-varying", "static", "k-subspace", "fedavg", "error-feedback"],
)
def test_a_round_that_was_broken_off_after_its_answers_is_run_again(
    settings: list[str], same: bool, tiny: Path, tmp_path: Path
) -> None:
    recipe = load(tiny, ["federation.clients_per_round=6", *settings])
    go(recipe, tmp_path / "whole", with_memory(recipe, tmp_path / "a"))
    grid = with_memory(recipe, tmp_path / "b")
    answered = itertools.count(1)

    def kill(message: Message, reply: Message) -> Message:
        if next(answered) == 4:  # the last of round 2
            raise KeyboardInterrupt
        return reply

    for node in grid.nodes.values():
        bad(node, kill)
    with pytest.raises(KeyboardInterrupt):
        go(recipe, tmp_path / "broken", grid)
    warnings, _ = go(recipe, tmp_path / "broken", with_memory(recipe, tmp_path / "b"))
    assert warnings == []
    (state, _, ledger), (other, _, others) = final(tmp_path / "whole"), final(tmp_path / "broken")
    assert ledger == others
    assert (state == other) == same


def test_a_server_that_cannot_begin_says_why_and_leaves_no_run(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrainingError, match=r"0 of 6 clients came"):
        serve(tiny, FakeGrid(), tmp_path / "run", patience=0.1)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in told] == ["server", "waiting", "failed"]
    assert "0 of 6 clients came" in told[-1]["error"]
    assert not (tmp_path / "run" / "recipe.toml").exists()


def test_a_log_of_events_that_cannot_be_written_stops_no_round(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.jsonl").symlink_to("/dev/full")
    serve(tiny, federation(tiny), tmp_path / "run")
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["round"] for event in told if event["event"] == "round"] == [0, 1, 2, 3]
    assert [event["text"] for event in told if "events.jsonl" in event.get("text", "")] == [told[1]["text"]]
    assert told[-1]["event"] == "finished"


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (ZeroDivisionError("division by zero"), {"event": "failed", "error": "ZeroDivisionError: division by zero"}),
        (KeyboardInterrupt(), {"event": "stopped", "reason": "KeyboardInterrupt"}),
    ],
)
def test_whatever_ends_a_server_is_told(
    error: BaseException, last: dict[str, str], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr(server_app, "train", broken)
    with pytest.raises(type(error)):
        serve(tiny, FakeGrid(), tmp_path / "run")
    event = json.loads((tmp_path / "run" / "events.jsonl").read_text().splitlines()[-1])
    assert event.items() >= last.items()


def test_nobody_is_late_in_a_simulation(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed = itertools.count(0, 3600)  # an hour at each look
    monkeypatch.setattr(engines, "time", SimpleNamespace(monotonic=passed.__next__, sleep=lambda seconds: None))
    recipe = load(tiny, ["federation.clients_per_round=6", "federation.rounds=1"])
    grid = federation(recipe)
    looks = itertools.count()
    bad(grid.nodes[102], lambda message, reply: reply if next(looks) > 50 else None)
    warnings, told = go(recipe, tmp_path / "run", grid, SETTINGS)
    assert (warnings, [event for event in told if event["event"] == "late"]) == ([], [])
    assert next(passed) > 50 * 3600


class Uploads:
    """Nodes with one client each, which answer at once, in whatever order they are looked for."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.asked: dict[str, Message] = {}

    def get_nodes(self) -> list[NodeInfo]:
        return []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{len(self.asked)}"
            self.asked[message.metadata.message_id] = message
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, ids: Iterable[str]) -> list[Message]:
        orders = {number: self.asked.pop(number) for number in ids if number in self.asked}
        return [
            Message(pack_answers({client: Answer(bytes(self.length)) for client in unpack_order(order.content).clients}),
                    reply_to=order)
            for order in orders.values()
        ]  # fmt: skip


def peak(clients: int, length: int) -> int:
    """Bytes that an exchange takes at most, over nodes with a client each."""
    names = [f"c{i}" for i in range(clients)]
    grid = Uploads(length)
    roll: Any = SimpleNamespace(
        node_of={name: i + 2 for i, name in enumerate(names)}, refresh=lambda *_: None, trust=lambda _: None
    )
    engine = engines.FlowerEngine(
        grid, roll, "s", Dropout(0.0, 0), deadline=60, patience=1, tell=lambda event, **facts: None
    )
    tracemalloc.start()
    total = sum(
        len(reply.payload or b"")
        for reply in engine.exchange(0, [Request(name, i, b"download") for i, name in enumerate(names)])
    )
    assert total == clients * length
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_a_server_holds_no_upload_after_its_turn() -> None:
    length = 1_000_000
    few, many = peak(4, length), peak(40, length)
    assert many < few + length  # 36 more uploads do not take the place of one


def serve(recipe: Path, grid: Any, folder: Path, **settings: Any) -> None:
    """What Flower does with a ServerApp."""
    context = Context(RUN, 1, {}, RecordDict(), {"out": str(folder), **settings})
    server_app.server_app(recipe)(grid, context)


def bad(node: Node, behave: Callable[[Message, Message], Message | None]) -> None:
    """Have a node misbehave in training; it answers the roll call well."""
    node.behave = lambda message, reply: behave(message, reply) if message.metadata.message_type == "train" else reply


def leave_after(grid: FakeGrid, number: int, rounds: int) -> None:
    def leave(message: Message, reply: Message) -> Message:
        if int(message.metadata.group_id) == rounds:
            del grid.nodes[number]
        return reply

    bad(grid.nodes[number], leave)


def without(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Train with two nodes of three; the ledger."""
    grid = federation(recipe)
    bad(grid.nodes[102], lambda message, reply: Message(Error(code=5, reason="gone"), reply_to=message))
    go(recipe, folder, grid)
    return accounts(folder)


def accounts(folder: Path) -> dict[str, Any]:
    _, tree, _ = checkpoint.load_latest(folder / "checkpoints", pytest.fail)
    return dict(tree["fields"]["accounts"]["dict"])


def states(folder: Path) -> Any:
    return final(folder)[0]
