"""The parts of a deployment, one by one: wire, memory, roll, settings, project."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
import tomllib
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate
from flwr.clientapp import ClientApp

from igc.deployment.events import EventLog
from igc.deployment.flower.client_app import answer
from igc.deployment.flower.memory import ContextMemories, DamagedError, FolderMemories
from igc.deployment.flower.project import write_project
from igc.deployment.flower.roll import Roll
from igc.deployment.flower.settings import NodeSettings, RunSettings
from igc.deployment.flower.wire import (
    RECORD,
    Answer,
    Order,
    Presence,
    WireError,
    pack_answers,
    pack_order,
    pack_presence,
    printable,
    unpack_answers,
    unpack_order,
    unpack_presence,
)
from igc.errors import RecipeError, RunError
from igc.experiments.recipe import load
from igc.federation import Request
from igc.methods.time_varying import Memory
from support.command import igc
from support.grid import FakeGrid, identify


@pytest.fixture(autouse=True)
def _server() -> None:
    identify()


def test_what_is_packed_comes_back() -> None:
    order = Order("abc", 3, ("a", "é"), (b"\x00\xff", b""))
    assert unpack_order(pack_order(order)) == order
    answers = {"a": Answer(b"\x01"), "b": Answer(None, "missed")}  # the one word of the engine's that a client may say
    assert unpack_answers(pack_answers(answers), ["a", "b"]) == answers
    assert unpack_answers(pack_answers(answers), ["b"]) == {"b": answers["b"]}
    presence = Presence(("a", "b"), "0.1")
    assert unpack_presence(pack_presence(presence)) == presence


@pytest.mark.parametrize(
    "record",
    [
        None,
        {},
        {"clients": ["a"], "payloads": [b"x"]},
        {"clients": ["a"], "payloads": ["x"], "errors": [""]},
        {"clients": ["a"], "payloads": b"x", "errors": [""]},
        {"clients": ["a", "b"], "payloads": [b"x"], "errors": ["", ""]},
        {"clients": ["a", "a"], "payloads": [b"x", b"y"], "errors": ["", ""]},
        {"clients": 3, "payloads": [b"x"], "errors": [""]},
    ],
)
def test_answers_that_igc_did_not_write_are_refused(record: dict[str, Any] | None) -> None:
    content = RecordDict() if record is None else RecordDict({RECORD: ConfigRecord(record)})
    with pytest.raises(WireError):
        unpack_answers(content, ["a"])


@pytest.mark.parametrize("word", ["absent", "dropped", "missed ", "Missed", ""])
def test_a_clients_words_never_pass_for_the_engines(word: str) -> None:
    (answer,) = unpack_answers(pack_answers({"a": Answer(None, word)}), ["a"]).values()
    assert answer.error == (f"its node says: {word}" if word else "")
    assert (answer.payload is None) == bool(word)  # an answer that is neither is an upload, an empty one


def test_other_peoples_words_are_made_safe_to_print() -> None:
    assert printable("a\x1b[2J\nb") == "a [2J b"
    assert len(printable("x" * 10_000)) < 600


@pytest.mark.parametrize("kind", ["context", "folder"])
def test_memories_come_back_in_their_session_alone(kind: str, tmp_path: Path) -> None:
    memories = ContextMemories(RecordDict()) if kind == "context" else FolderMemories(tmp_path / "m")
    shared = torch.arange(4.0)
    base = torch.randn(9)
    memory = Memory(base, 2, (shared, shared, torch.zeros(4)))
    assert memories.get("s", "a/../b") is None
    memories.put("s", "a/../b", memory)
    found = memories.get("s", "a/../b")
    assert found.base_epochs == 2
    assert torch.equal(found.base, base)
    assert all(torch.equal(x, y) for x, y in zip(found.finals, memory.finals, strict=True))
    assert memories.get("s", "b") is None
    assert memories.get("other", "a/../b") is None


MEMORY = Memory(torch.arange(9.0), 2, ())


def damages(data: bytes) -> list[bytes]:
    return [b"", data[:4], data[:30], data[:-4], b"\xff" * 40, data.replace(b"igc.methods", b"igc.nothing")]


def file_of(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_what_a_method_remembers_is_as_good_as_lost_where_it_is_damaged(tmp_path: Path) -> None:
    memories = FolderMemories(tmp_path, accounts=False)
    memories.put("s", "a", MEMORY)
    data = file_of(tmp_path).read_bytes()
    for damaged in damages(data):
        file_of(tmp_path).write_bytes(damaged)
        assert memories.get("s", "a") is None
    file_of(tmp_path).write_bytes(data)
    assert memories.get("s", "a") is not None


def test_an_account_that_is_damaged_is_a_reason_to_answer_nothing(tmp_path: Path) -> None:
    memories = FolderMemories(tmp_path)
    memories.put("s", "a", MEMORY)
    for damaged in damages(file_of(tmp_path).read_bytes()):
        file_of(tmp_path).write_bytes(damaged)
        with pytest.raises(DamagedError, match=r"account of this run, a-\w+\.\w+\.account in .* cannot be read"):
            memories.get("s", "a")
    path = file_of(tmp_path)
    path.unlink()
    path.mkdir()  # the disk says something else than that there is no such file
    with pytest.raises(DamagedError, match="cannot be read: Is a directory"):
        memories.get("s", "a")
    clients: Any = Stub()
    ((_, said),) = answer(clients, Order("s", 0, ("b",), (b"",)), FolderMemories(path)).items()
    assert said.payload == b"b"
    path = next(path.iterdir())
    path.write_bytes(b"")
    ((_, said),) = answer(clients, Order("s", 0, ("b",), (b"",)), FolderMemories(path.parent)).items()
    assert said.payload is None and "cannot be read" in said.error
    assert str(tmp_path) not in said.error  # the server need not know where a node has its files


def test_no_run_replaces_the_account_of_another(tmp_path: Path) -> None:
    accounts, plain = FolderMemories(tmp_path), FolderMemories(tmp_path, accounts=False)
    runs = ["0123456789abcdef", "fedcba9876543210", "../../another server's", "x" * 500]
    clients = ["ward 3/" + "é" * 300, "ward 3/" + "è" * 300, "CON", ""]
    wanted = {(run, client): torch.tensor([float(i)]) for i, (run, client) in enumerate(product(runs, clients))}
    for (run, client), tensor in wanted.items():
        accounts.put(run, client, tensor)
        plain.put(run, client, torch.tensor([-1.0]))
    assert all(torch.equal(accounts.get(*key), tensor) for key, tensor in wanted.items())
    assert [client for client in clients if plain.get(runs[0], client) is not None] == []  # one file a client
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == len(wanted) + len(clients)
    assert max(map(len, names)) < 120
    assert sum(name.startswith("ward_3_") and name.endswith(f".{runs[0]}.account") for name in names) == 2


def test_an_account_of_the_time_before_they_were_kept_apart_is_found(tmp_path: Path) -> None:
    FolderMemories(tmp_path, accounts=False).put("s", "a", MEMORY)
    accounts = FolderMemories(tmp_path)
    assert accounts.get("s", "a").base_epochs == 2
    assert accounts.get("other", "a") is None
    path = file_of(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedError):
        accounts.get("s", "a")


class Nodes(FakeGrid):
    """Nodes that answer the roll call with given clients."""

    def has(self, number: int, *clients: str) -> None:
        app = ClientApp()

        @app.query()
        def call(message: Message, context: Any) -> Message:
            return Message(pack_presence(Presence(clients, "1")), reply_to=message)

        self.add(number, app, {}, {})


def test_the_roll_knows_who_is_where() -> None:
    grid, told = Nodes(), list[str]()
    roll = Roll(grid, ("a", "b", "c"), lambda event, **facts: told.append(event), poll=0.01)
    grid.has(1, "a", "b")
    roll.refresh(["a"], 1)
    assert roll.node_of == {"a": 1, "b": 1}
    grid.has(2, "b", "c", "stranger")
    roll.refresh(["c"], 1)
    assert roll.node_of == {"a": 1, "b": 1, "c": 2}
    assert told == ["node-joined", "node-joined", "warning", "warning"]  # of a stranger, and of b's second place
    del grid.nodes[1]
    roll.refresh(["b"], 1)
    assert roll.node_of == {"b": 2, "c": 2}
    assert len(grid.sent) == 2  # nobody is asked twice


def test_waiting_ends_with_patience() -> None:
    grid = Nodes()
    grid.has(1, "a")
    roll = Roll(grid, ("a", "b"), lambda event, **facts: None, poll=0.01)
    assert roll.wait_for(("a", "b"), 2, 0.05) == 1
    assert roll.wait_for(("a", "b"), 1, 60) == 1


def test_settings_say_what_is_wrong_with_them() -> None:
    with pytest.raises(RecipeError, match=r"run config: deadine: no such setting \(did you mean 'deadline'\?\)"):
        RunSettings.read({"deadine": 3}, "run config")
    with pytest.raises(RecipeError, match=r"patience = -1: input should be greater than 0"):
        RunSettings.read({"patience": -1}, "run config")
    assert RunSettings.read({"clients": " a, b,,a "}, "run config").roster == ("a", "b")


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (
            {"partition-id": 4, "num-partitions": 4},
            "node config: partition-id = 4: counts from 0; at most 3 with num-partitions = 4",
        ),
        ({"partition-id": -1, "num-partitions": 4}, "node config: partition-id = -1: input should be greater than"),
        ({"device": "gpu"}, "node config: device = 'gpu': string should match pattern"),
        ({"device": "cuda:x"}, "node config: device = 'cuda:x': string should match pattern"),
        (
            {"memory": "memory/node"},
            f"node config: memory = 'memory/node': depends on the folder that the SuperNode is started in; say its whole"
            f" path, '{Path.cwd() / 'memory' / 'node'}' from here",
        ),
    ],
)
def test_a_node_that_is_told_what_cannot_be_says_so(config: dict[str, Any], fault: str) -> None:
    with pytest.raises(RecipeError) as caught:
        NodeSettings.read(config, "node config")
    assert str(caught.value).startswith(fault)


def test_a_nodes_settings_may_begin_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = {"data": "~/rows.csv", "memory": "~/memory", "device": "cuda:1", "partition-id": 3, "num-partitions": 4}
    node = NodeSettings.read(config, "node config")
    assert (node.data, node.memory) == (tmp_path / "rows.csv", tmp_path / "memory")
    assert node.served(("a", "b", "c", "d")) == ("d",)


def test_nodes_say_whose_data_they_have() -> None:
    everybody = ("a", "b", "c", "d", "e")
    shares = [NodeSettings.read({"partition-id": i, "num-partitions": 2}, "").served(everybody) for i in range(2)]
    assert shares == [("a", "c", "e"), ("b", "d")]
    assert NodeSettings.read({"clients": "e,a"}, "").served(everybody) == ("e", "a")
    with pytest.raises(RecipeError, match="there is no client 'f'"):
        NodeSettings.read({"clients": "f"}, "").served(everybody)
    with pytest.raises(RecipeError, match="say whose data are here"):
        NodeSettings.read({}, "").served(everybody)


def test_events_outlive_the_folder_of_a_run_that_could_not_begin(tmp_path: Path) -> None:
    stream = io.StringIO()
    log = EventLog(stream)
    log.write_to(tmp_path / "gone")
    log.tell("failed", error="no clients")
    assert json.loads(stream.getvalue())["error"] == "no clients"
    assert not (tmp_path / "gone").exists()


def test_events_are_lines_of_json(tmp_path: Path) -> None:
    stream = io.StringIO()
    log = EventLog(stream)
    log.tell("early")
    log.write_to(tmp_path)
    log.tell("round", round=1, text="a\nb")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["early", "round"]
    assert (tmp_path / "events.jsonl").read_text().splitlines() == stream.getvalue().splitlines()[1:]


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Flower's own
def test_a_project_is_what_flower_takes(tmp_path: Path) -> None:
    recipe = load("movie-reviews", ["title='A \"title\"'"])
    write_project(tmp_path / "fed", recipe, RunSettings(), nodes=3, port=8123)
    config, warnings = load_and_validate(tmp_path / "fed" / "pyproject.toml")
    assert warnings == []
    assert build_fab_from_disk(tmp_path / "fed")
    found = load(tmp_path / "fed" / "igc_app" / "recipe.toml")
    assert found.essence == recipe.essence
    RunSettings.read(config["tool"]["flwr"]["app"]["config"], "run config")
    for side in ("server", "client"):
        code = f"from igc_app.{side}_app import app; print(type(app).__name__)"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path / "fed", capture_output=True, text=True, check=True
        )
        assert done.stdout == f"{side.title()}App\n"
    connections = tomllib.loads((tmp_path / "fed" / ".flwr" / "config.toml").read_text())
    assert connections["superlink"]["loopback"]["address"] == "127.0.0.1:8123"


@pytest.mark.parametrize(
    ("recipe", "settings", "extras"),
    [
        ("movie-reviews", [], "flower"),
        ("shakespeare", [], "flower,gguf"),
        ("movie-reviews", ["model.lora_rank=4"], "flower,lora"),
        ("movie-reviews", ["codec.up=float32", "aggregation.norm_bound=1", "secure.max_weight=4"], "flower,secure"),
        (
            "movie-reviews",
            [
                "aggregation.norm_bound=1",
                "federation.weights=uniform",
                "privacy.noise_multiplier=1",
                "privacy.delta=1e-5",
            ],
            "flower,privacy",
        ),
    ],
)
def test_a_project_names_what_its_recipe_needs(recipe: str, settings: list[str], extras: str, tmp_path: Path) -> None:
    write_project(tmp_path / "fed", load(recipe, settings), RunSettings(), nodes=2, port=1)
    project = tomllib.loads((tmp_path / "fed" / "pyproject.toml").read_text())["project"]
    (needed,) = project["dependencies"]
    assert needed.startswith(f"intrinsic-gradient-compression[{extras}]>=")
    known = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert set(extras.split(",")) <= known["optional-dependencies"].keys()


class Stub:
    """Clients that upload their own name."""

    names = ("a", "b", "c")
    engine: Any

    def __init__(self) -> None:
        self.engine = self

    def respond(self, request: Request, memory: Any) -> tuple[Any, bytes]:
        if request.client == "a":
            raise MemoryError("out of memory")
        return None, request.client.encode()


def test_one_clients_failure_leaves_the_answers_of_its_node_alone() -> None:
    class Full(ContextMemories):  # type: ignore[misc]
        def put(self, session: str, client: str, memory: Any) -> None:
            if client == "b":
                raise OSError(28, "No space left on device")

    order = Order("s", 0, ("a", "b", "c", "d"), (b"",) * 4)
    clients: Any = Stub()
    assert answer(clients, order, Full(RecordDict())) == {
        "a": Answer(None, "MemoryError: out of memory"),
        "b": Answer(None, "OSError: [Errno 28] No space left on device"),
        "c": Answer(b"c"),
        "d": Answer(None, "its data are not on this node"),
    }


@pytest.mark.parametrize("name", ["a_b", "1st", "x" * 33])
def test_a_folder_whose_name_flower_refuses_is_refused_at_once(name: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be the name of a Flower app"):
        write_project(tmp_path / name, load("movie-reviews"), RunSettings(), nodes=2, port=1)


def test_igc_deploy_init(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = igc(["deploy", "init", "fed", "--set", "seed=4", "--nodes", "3"], capsys, monkeypatch)
    assert outcome.code == 0, outcome.err
    assert outcome.out.endswith("next: cd fed and follow README.md\n")
    recipe = load(tmp_path / "fed" / "igc_app" / "recipe.toml")
    assert (recipe.seed, recipe.checkpoint.every) == (4, 1)
    assert "num-partitions=3" in (tmp_path / "fed" / "README.md").read_text()
    own = igc(["deploy", "init", "own", "--clients", "a,o'brien"], capsys, monkeypatch)
    assert own.code == 0, own.err
    started = [line for line in (tmp_path / "own" / "README.md").read_text().splitlines() if "--node-config" in line]
    configs = [tomllib.loads(shlex.split(line)[-2].replace(" data", "\ndata")) for line in started]
    assert configs == [{"clients": "a", "data": "FILE"}, {"clients": "o'brien", "data": "FILE"}]
    again = igc(["deploy", "init", "fed"], capsys, monkeypatch)
    assert (again.code, again.err) == (2, "igc: error: fed is there already, and not empty; choose another folder\n")
