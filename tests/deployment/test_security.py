"""TLS and node keys, made and used as docs/deployment.md says: ``pytest -m slow tests/deployment``."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import tomli_w
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from igc.experiments.recipe import Recipe, load
from support.flower import Deployment, text, wait_until
from support.tiny import write_recipe

pytestmark = pytest.mark.slow

DOC = Path(__file__).parents[2] / "docs" / "deployment.md"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = write_recipe(
        tmp_path_factory.mktemp("tiny"),
        method={"name": "static", "dim": 32},
        federation={"rounds": 1, "clients_per_round": 2, "batch_size": 4},
        data={"clients": 2, "partition": "iid", "options": {"test": 20, "validation": 0}},
    )
    return load(path)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the documented commands make: an authority, a server's certificate, a node's key; and strangers' ones."""
    (block,) = re.findall(r"```text\n(openssl req .*?)```", DOC.read_text(), re.DOTALL)
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        (folder / name).mkdir()
        done = subprocess.run(["bash", "-ec", block], cwd=folder / name, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder


class Secured(Deployment):
    """A deployment with TLS and node keys."""

    def __init__(self, folder: Path, recipe: Recipe, keys: Path) -> None:
        super().__init__(folder, recipe, patience=60.0)
        self.keys = keys
        connection = {"address": f"127.0.0.1:{self.port}", "root-certificates": str(keys / "ours" / "ca.crt")}
        (self.home / "config.toml").write_text(tomli_w.dumps({"superlink": {"loopback": connection}}))
        ours = keys / "ours"
        certificates = ["--ssl-ca-certfile", ours / "ca.crt", "--ssl-certfile", ours / "server.pem"]
        certificates += ["--ssl-keyfile", ours / "server.key", "--enable-supernode-auth"]
        self.link = self.superlink(*map(str, certificates))

    def node(self, authority: str, key: str | None) -> str:
        """What a SuperNode says that trusts an authority and has somebody's key, or none."""
        arguments = ["--root-certificates", str(self.keys / authority / "ca.crt"), "--max-retries", "1"]
        if key is not None:
            arguments += ["--auth-supernode-private-key", str(self.keys / key / "node-0")]
        self.latest = self.supernode("partition-id=0 num-partitions=1", *arguments)
        wait_until(lambda: self.latest.poll() is not None or "SuperNode ID" in text(self.latest), 60, "undecided")
        return text(self.latest)


def test_only_a_registered_key_over_the_right_certificate_takes_part(
    recipe: Recipe, keys: Path, tmp_path: Path
) -> None:
    with Secured(tmp_path, recipe, keys) as federation:
        unknown = "Failed to activate SuperNode"
        assert unknown in federation.node("ours", "ours")  # whose key nobody has registered yet
        register = federation.start(
            "register", "flwr", "supernode", "register", str(keys / "ours" / "node-0.pub"), "loopback"
        )
        assert register.wait(60) == 0, text(register)
        assert unknown in federation.node("ours", "theirs")  # somebody else's key
        assert "All SuperNodes must be registered" in federation.node("ours", None)
        assert "CERTIFICATE_VERIFY_FAILED" in federation.node("theirs", "ours")  # the node does not trust the server
        insecure = federation.supernode("partition-id=0 num-partitions=1", "--insecure", "--max-retries", "1")
        assert insecure.wait(60) != 0
        assert "SuperNode ID" in federation.node("ours", "ours")
        federation.finish(federation.run())


def test_keys_are_of_the_kind_that_flower_takes(keys: Path) -> None:
    key = load_ssh_public_key((keys / "ours" / "node-0.pub").read_bytes())
    assert getattr(key, "key_size", 0) == 384
