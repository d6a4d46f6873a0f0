"""A federation over Flower's messages, in this process: the same as in process, bit for bit, whatever nodes do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, RecordDict

from igc.deployment.flower.client_app import client_app
from igc.deployment.flower.server_app import create_or_open, train
from igc.deployment.flower.settings import RunSettings
from igc.deployment.flower.wire import RECORD, Answer, pack_answers, unpack_answers, unpack_order
from igc.errors import RunError, TrainingError
from igc.experiments import checkpoint
from igc.experiments.progress import RoundRecord, RunInfo
from igc.experiments.recipe import Recipe, load
from igc.experiments.run import Run
from support.grid import FakeGrid, Node, identify
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


def test_clients_with_data_of_their_own(tiny: Path, tmp_path: Path) -> None:
    rows = (tiny.parent / "data.csv").read_text().splitlines()
    recipe = load(tiny, ["federation.clients_per_round=2"])
    settings = FAST.model_copy(update={"clients": "left, right"})
    grid = FakeGrid()
    for number, (name, part) in enumerate({"left": rows[1:120], "right": rows[120:]}.items()):
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join([rows[0], *part]) + "\n")
        run_config: dict[str, object] = {"clients": "left, right"}
        grid.add(100 + number, client_app(recipe), {"clients": name, "data": str(path)}, run_config)
    warnings, _ = go(recipe, tmp_path / "run", grid, settings)
    assert warnings == []
    assert accounts(tmp_path / "run").keys() == {"left", "right"}


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
