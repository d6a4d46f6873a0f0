"""Real SuperNodes that answer nonsense, and half of the clients gone for good: ``pytest -m slow tests/deployment``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from igc.experiments.recipe import Recipe, load
from support.flower import Deployment, kill
from support.tiny import write_recipe

pytestmark = pytest.mark.slow

# Imported by every Python that a hostile SuperNode starts; KIND says what its clients send in place of their uploads.
HOSTILE = """
import dataclasses, os
from pathlib import Path

import igc.deployment.flower.client_app as app
from igc.messages import Agreement, Kind, Message, decode, encode

honest, kind = app.answer, os.environ["KIND"]

def change(payload, agreement, round):
    if kind == "garbage":
        return b"garbage"
    if kind == "old round":
        kept = Path(os.environ["KEPT"])
        if not kept.exists():
            kept.write_bytes(payload)
        return kept.read_bytes()
    upload = decode(payload, agreement, Kind.UPLOAD, round)
    if kind == "fingerprint":
        return encode(upload, dataclasses.replace(agreement, space=b"elsewhere"[:8]))
    tensors = {name: t * float("nan") if t.dim() else t for name, t in upload.tensors.items()}
    return encode(Message(Kind.UPLOAD, round, tensors), agreement)

def answer(clients, order, memories):
    (agreement,) = [value for value in vars(clients.engine).values() if isinstance(value, Agreement)]
    answers = honest(clients, order, memories)
    return {
        name: found if found.payload is None else app.Answer(change(found.payload, agreement, order.round))
        for name, found in answers.items()
    }

app.answer = answer
"""
KINDS = {
    "client-2": ("garbage", "not a message"),
    "client-3": ("nan", "NaN"),
    "client-4": ("old round", "sent for round 0 in round 1"),
    "client-5": ("fingerprint", "parameter space"),
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = write_recipe(
        tmp_path_factory.mktemp("tiny"),
        method={"name": "static", "dim": 32},
        federation={"rounds": 2, "clients_per_round": 6, "batch_size": 4, "fused": False},
        data={"clients": 6, "partition": "iid", "options": {"test": 20, "validation": 0}},
        evaluation={"every": 2},
        checkpoint={"every": 1},
    )
    return load(path)


def rounds(folder: Path) -> list[dict[str, int]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_real_nodes_that_answer_nonsense_are_left_out(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "hostile").mkdir()
    (tmp_path / "hostile" / "sitecustomize.py").write_text(HOSTILE)
    with Deployment(tmp_path, recipe) as federation:
        federation.superlink()
        federation.supernode('clients="client-0,client-1"')
        for client, (kind, _) in KINDS.items():
            environment = {"PYTHONPATH": str(tmp_path / "hostile"), "KIND": kind, "KEPT": str(tmp_path / "kept")}
            federation.supernode(f'clients="{client}"', environment=environment)
        federation.finish(federation.run(), 400)
        done = rounds(federation.run_folder)
        # In the first round there is no old one to send again.
        assert [(line["rejected"], line["dropped"]) for line in done[1:]] == [(3, 0), (4, 0)]
        warnings = [event["text"] for event in federation.events("warning")]
        for client, (kind, reason) in KINDS.items():
            assert any(client in text and reason in text for text in warnings), (kind, warnings)
        assert not any("client-0" in text or "client-1" in text for text in warnings)


def test_half_of_the_clients_gone_for_good(recipe: Recipe, tmp_path: Path) -> None:
    longer = recipe.model_copy(update={"federation": recipe.federation.model_copy(update={"rounds": 4})})
    with Deployment(tmp_path, longer, deadline=45.0) as federation:
        federation.superlink()
        _, second = federation.supernodes()
        run = federation.run()
        federation.wait_for_round(1)
        kill(second)
        federation.finish(run, 400)
        done = rounds(federation.run_folder)
        assert [line["round"] for line in done] == [0, 1, 2, 3, 4]
        assert done[1]["dropped"] == 0
        assert {line["dropped"] for line in done[2:]} == {3}  # dropped at the deadline, then absent
        assert done[-1]["bytes_up"] == done[1]["bytes_up"] // 2  # nothing is counted that did not come
