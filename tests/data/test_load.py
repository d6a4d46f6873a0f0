from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from igc.data import SOURCES, DataSettings, load_dataset
from igc.errors import DataError


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "table.csv"
    file.write_text("text,label\n" + "".join(f"text {i},{i % 3}\n" for i in range(90)))
    return file


def settings(table: Path, **changes: Any) -> DataSettings:
    return DataSettings(**({"source": "text-classification-file", "path": table, "clients": 9} | changes))


PARTITIONS = [{}, {"partition": "dirichlet", "alpha": 0.5}, {"partition": "labels", "labels_per_client": 1}]


@pytest.mark.parametrize("how", PARTITIONS)
def test_every_example_is_somewhere_once_and_the_seed_decides(how: dict[str, Any], table: Path) -> None:
    data = load_dataset(settings(table, **how), 5)
    assert list(data.clients) == [f"client-{i}" for i in range(9)]
    parts = [*data.clients.values(), *data.evaluation.values()]
    assert sorted(text for part in parts for text, _ in part) == sorted(f"text {i}" for i in range(90))
    assert data == load_dataset(settings(table, **how), 5)
    assert data != load_dataset(settings(table, **how), 6)


def test_another_partition_leaves_the_splits_alone(table: Path) -> None:
    splits = [load_dataset(settings(table, **how), 5).evaluation for how in PARTITIONS]
    assert splits[0] == splits[1] == splits[2]
    assert {name: len(split) for name, split in splits[0].items()} == {"validation": 9, "test": 9}


def test_a_cap_keeps_some_clients_as_they_were(table: Path) -> None:
    everyone = load_dataset(settings(table), 5).clients
    some = load_dataset(settings(table, max_clients=4), 5).clients
    assert len(some) == 4
    assert list(some) == [client for client in everyone if client in some]
    assert all(some[client] == everyone[client] for client in some)
    assert load_dataset(settings(table, max_clients=100), 5).clients == everyone


def test_splits_that_leave_nothing(table: Path) -> None:
    with pytest.raises(DataError, match="90 examples leave none to train on after 99"):
        load_dataset(settings(table, options={"test": 90}), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "shakespear"}, r"no data source 'shakespear' \(did you mean 'shakespeare'"),
        ({"path": None}, "source 'text-classification-file' needs 'path'"),
        ({"clients": None}, r"partition 'iid' needs 'clients' \(or is it 'natural'\?\)"),
        ({"clients": 0}, "greater than or equal to 1"),
        ({"alpha": 1.0}, "partition 'iid' takes no 'alpha'"),
        ({"partition": "dirichlet"}, "partition 'dirichlet' needs 'alpha'"),
        ({"partition": "dirichlet", "alpha": 0.0}, "greater than 0"),
        ({"partition": "dirichlet", "alpha": float("inf")}, "finite"),
        ({"partition": "labels"}, "partition 'labels' needs 'labels_per_client'"),
        ({"partition": "natural"}, "partition 'natural' takes no 'clients'"),
        ({"partition": "random"}, "'natural', 'iid', 'dirichlet' or 'labels'"),
        ({"options": {"tets": 3}}, r"options.tets: unknown \(did you mean 'test'\?\)"),
        ({"options": {"test": -3}}, "options.test: .*greater than or equal to 0"),
        ({"source": "movie-reviews", "partition": "natural", "clients": None}, "has no clients of its own"),
        ({"source": "shakespeare", "partition": "dirichlet", "alpha": 1.0}, "goes by labels"),
        ({"folder": "x"}, "Extra inputs are not permitted"),
    ],
)
def test_faults_in_settings(changes: dict[str, Any], message: str, table: Path) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(table, **changes)


def test_all_faults_come_together(table: Path) -> None:
    with pytest.raises(ValidationError) as error:
        settings(table, path=None, clients=None, options={"tets": 3})
    assert all(part in str(error.value) for part in ("options.tets", "needs 'path'", "needs 'clients'"))


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_can_be_named_in_a_recipe(source: str, tmp_path: Path) -> None:
    loader = SOURCES[source]
    made = DataSettings(source=source, path=tmp_path, clients=None if loader.partition == "natural" else 2)
    assert made.partition_in_force == loader.partition
    assert loader.options() == loader.options(**loader.options().model_dump())


@pytest.mark.data
def test_shakespeare_holds_roles_and_last_lines_out() -> None:
    data = load_dataset(DataSettings(source="shakespeare"), 0)
    assert len(data.clients) == 1001
    assert {name: len(split) for name, split in data.evaluation.items()} == {
        "held-out-roles": 40,
        "held-out-lines": 200,
    }
    trained = {speech for speeches in data.clients.values() for speech in speeches if len(speech) > 200}
    for split in data.evaluation.values():
        assert not [text for (text,) in split if any(speech in text for speech in trained)]
    assert all(len(text.split()) >= 60 for (text,) in data.evaluation["held-out-roles"])
    hamlet = data.clients.get("Hamlet/HAMLET")
    assert hamlet is None or hamlet[0] == "A little more than kin, and less than kind."
