"""A Flower project for a recipe: ``igc deploy init``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from shlex import quote
from string import Template
from typing import Any, Final

import tomli_w

import igc
from igc.deployment.flower.settings import RunSettings
from igc.errors import RunError
from igc.experiments.atomic import write_atomically
from igc.experiments.recipe import Recipe
from igc.fetch import PACKAGES

PACKAGE: Final = "igc_app"
HOME: Final = ".flwr"
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,31}")  # what Flower takes for the name of an app, and of its folder


def write_project(folder: Path, recipe: Recipe, settings: RunSettings, nodes: int, port: int) -> list[Path]:
    """Write a project that is ready to run; returns its files.

    Args:
        folder: a new or empty one; its name becomes the app's.
        recipe: what to train.
        settings: of the run.
        nodes: SuperNodes that the README starts.
        port: of the SuperLink.

    Raises:
        RunError: the folder's name is no name for a Flower app, or it holds files already.
    """
    name = folder.absolute().name
    if not _NAME.fullmatch(name):
        raise RunError(
            f"'{name}' cannot be the name of a Flower app: letters, digits and hyphens only, at most 32, a letter first;"
            " choose another folder"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} is there already, and not empty; choose another folder")
    facts = {"name": name, "title": recipe.title, "folder": quote(str(folder)), "port": port}
    facts |= {"out": settings.out, "package": PACKAGE, "home": HOME, "supernodes": _supernodes(settings, nodes, port)}
    files = {
        "pyproject.toml": tomli_w.dumps(_pyproject(name, recipe, settings)),
        f"{HOME}/config.toml": tomli_w.dumps(_connections(port, nodes)),
        "README.md": Template(_README).substitute(facts),
        ".gitignore": f"{HOME}/*\n!{HOME}/config.toml\nruns/\n__pycache__/\n",
        f"{PACKAGE}/__init__.py": f'"""{recipe.title}, as a Flower app."""\n'.replace("\\", "\\\\"),
        f"{PACKAGE}/server_app.py": _APP.format(side="server"),
        f"{PACKAGE}/client_app.py": _APP.format(side="client"),
        f"{PACKAGE}/recipe.toml": recipe.anchored().to_toml(),
    }
    for path, text in files.items():
        write_atomically(folder / path, text, then="give the same command again, or name another folder")
    return [folder / path for path in files]


def _supernodes(settings: RunSettings, nodes: int, port: int) -> str:
    """How to start the nodes, for the README."""
    start = f"flower-supernode --insecure --superlink 127.0.0.1:{port} --port"
    if not settings.roster:
        return f"""{nodes} nodes, among which the recipe's clients are dealt out:

```text
for i in $(seq 0 {nodes - 1}); do
  {start} $((9094 + i)) \\
    --node-config "partition-id=$i num-partitions={nodes}" &
done; wait
```"""
    configs = [f'clients={json.dumps(name, ensure_ascii=False)} data="FILE"' for name in settings.roster]
    lines = [f"{start} {9094 + number} --node-config {quote(config)} &" for number, config in enumerate(configs)]
    return "\n".join(["a node for each client, with its own data in place of FILE:\n\n```text", *lines, "wait\n```"])


def extras(recipe: Recipe) -> list[str]:
    """What both sides of a recipe need beside igc itself, by the names of its extras."""
    needed = {
        "flower": True,
        "gguf": _is_gguf(recipe.model.source),
        "hub": recipe.data.source == "sst2" and recipe.data.path is None,
        "lora": recipe.model.lora_rank is not None,
        "privacy": recipe.privacy is not None,
        "secure": recipe.secure is not None,
    }
    return [name for name, is_needed in needed.items() if is_needed]


def _is_gguf(source: str) -> bool:
    """Whether a model is a GGUF file, or a folder or package with one."""
    kind, _, name = source.partition(":")
    if kind == "package":
        members = getattr(PACKAGES.get(name), "members", ())
        return any(member.endswith(".gguf") for member in members)
    path = Path(source).expanduser()
    return path.suffix == ".gguf" or (not (path / "config.json").is_file() and any(path.glob("*.gguf")))


def _pyproject(name: str, recipe: Recipe, settings: RunSettings) -> dict[str, Any]:
    components = {f"{side}app": f"{PACKAGE}.{side}_app:app" for side in ("server", "client")}
    return {
        "build-system": {"requires": ["hatchling"], "build-backend": "hatchling.build"},
        "project": {
            "name": name,
            "version": "1.0.0",
            "description": recipe.title,
            "license": "Apache-2.0",
            "requires-python": ">=3.11",
            "dependencies": [f"intrinsic-gradient-compression[{','.join(extras(recipe))}]>={igc.__version__}"],
        },
        "tool": {
            "hatch": {"build": {"targets": {"wheel": {"packages": ["."]}}}},
            "flwr": {
                "app": {
                    "publisher": "igc",
                    "components": components,
                    "config": settings.model_dump(by_alias=True),
                }
            },
        },
    }


def _connections(port: int, nodes: int) -> dict[str, Any]:
    return {
        "superlink": {
            "default": "loopback",
            "loopback": {"address": f"127.0.0.1:{port}", "insecure": True},
            "simulation": {"options": {"num-supernodes": nodes}},
        }
    }


_APP = """from pathlib import Path

from igc.deployment.flower.{side}_app import {side}_app

app = {side}_app(Path(__file__).with_name("recipe.toml"))
"""

_README = """# $title

A Flower app that trains by the recipe in `$package/recipe.toml`. Made by `igc deploy init`.

On one machine, in three terminals, each of them in this folder and with

```text
export FLWR_HOME="$$PWD/$home" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
```

Terminal 1, the server:

```text
flower-superlink --insecure --port $port --disable-runtime-dependency-installation
```

Terminal 2, $supernodes

Terminal 3, the run:

```text
flwr run . loopback --stream
```

The server writes its run to `$out`: metrics, bytes by client, events, checkpoints. Stop it, or kill it, and the same
`flwr run` goes on from the newest checkpoint. `igc eval $out` and `igc export $out` read it as any other run.

`--insecure` is for loopback alone. TLS, node keys, data of a node's own and all settings are in igc's
`docs/deployment.md`.
"""
