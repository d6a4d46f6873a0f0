"""Bytes changed between a real SuperNode and the SuperLink, without TLS and with it: ``pytest -m slow``."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from igc.experiments.recipe import Recipe, load
from igc.experiments.run import Run
from igc.messages import MAGIC
from support.flower import Deployment, text
from support.proxy import Proxy
from support.tiny import write_recipe

pytestmark = pytest.mark.slow

DOC = Path(__file__).parents[2] / "docs" / "deployment.md"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = write_recipe(
        tmp_path_factory.mktemp("tiny"),
        method={"name": "static", "dim": 512},
        federation={"rounds": 1, "clients_per_round": 2, "batch_size": 4, "fused": False},
        data={"clients": 2, "partition": "iid", "options": {"test": 20, "validation": 0}},
        checkpoint={"every": 1},
    )
    return load(path)


class Quiet:
    """An observer that says nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def sigma(folder: Path) -> list[float]:
    found: torch.Tensor = Run.open(folder).restore(print).server.state.sigma
    assert found.any()
    return found.tolist()


def rounds(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def flipped(piece: bytes) -> bytes:
    """A bit of every upload in a piece is another."""
    found = bytearray(piece)
    for match in re.finditer(re.escape(MAGIC), piece):
        if match.start() + 400 < len(found):
            found[match.start() + 400] ^= 1
    return bytes(found)


def test_bits_flipped_without_tls_cost_a_client_its_upload_and_nothing_else(recipe: Recipe, tmp_path: Path) -> None:
    with Deployment(tmp_path, recipe, deadline=60.0) as federation:
        link = federation.superlink()
        with Proxy(federation.port, flipped) as proxy:
            federation.supernode('clients="client-0"')
            federation.supernode('clients="client-1"', through=proxy.port)
            federation.finish(federation.run(), 400)
            assert MAGIC in proxy.up  # whoever is between can read all
            assert {path.rpartition("/")[0] for path in proxy.paths()} == {
                "/v1/fleet"
            }  # what a reverse proxy must pass
        assert "does not match content hash" in text(link)  # Flower's own check comes before igc's
        (done,) = rounds(federation.run_folder)[1:]
        assert (done["clients"], done["dropped"], done["rejected"]) == (2, 1, 0)
        assert done["seconds"] < 60 + 30  # the node has announced its reply, and is late all the same


def test_with_tls_nothing_is_read_and_what_was_changed_counts_nowhere(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (block,) = re.findall(r"```text\n(openssl req .*?)```", DOC.read_text(), re.DOTALL)
    subprocess.run(["bash", "-ec", block], cwd=tmp_path / "keys", capture_output=True, check=True)
    names = {name: str(tmp_path / "keys" / name) for name in ("ca.crt", "server.pem", "server.key")}
    here = tmp_path / "here"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    Run.create(recipe, here).train(Quiet())
    torch.set_num_threads(threads)
    changed: list[int] = []

    def flip(piece: bytes) -> bytes:
        if len(piece) < 2_000 or len(changed) >= 3:  # shorter than an upload, or often enough
            return piece
        changed.append(len(piece))
        return piece[:-1] + bytes([piece[-1] ^ 1])

    with Deployment(tmp_path, recipe, deadline=120.0) as federation:
        connection = {"address": f"127.0.0.1:{federation.port}", "root-certificates": names["ca.crt"]}
        (federation.home / "config.toml").write_text(tomli_w.dumps({"superlink": {"loopback": connection}}))
        pairs = {"--ssl-ca-certfile": "ca.crt", "--ssl-certfile": "server.pem", "--ssl-keyfile": "server.key"}
        federation.superlink(*(part for option, name in pairs.items() for part in (option, names[name])))
        with Proxy(federation.port, flip) as proxy:
            for client, through in (("client-0", None), ("client-1", proxy.port)):
                federation.supernode(f'clients="{client}"', "--root-certificates", names["ca.crt"], through=through)
            federation.finish(federation.run(), 400)
            assert changed
            assert proxy.up and MAGIC not in proxy.up and not proxy.paths()
        (done,) = rounds(federation.run_folder)[1:]
        assert (done["dropped"], done["rejected"]) == (0, 0)  # the connection broke, and all was sent again
        assert sigma(federation.run_folder) == sigma(here)
