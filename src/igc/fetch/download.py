"""Download one file of one release with pip, in a process of its own, without installing, importing or building it.

pip brings what a downloader of our own would lack: the user's indexes, mirrors, proxies, certificates and credentials.

A source archive needs care. Even ``pip download --no-deps`` asks the archive's build system for its metadata, which
would execute the ``setup.py`` of somebody else and download its build requirements. So pip is given a build system of
ours: archives without a ``pyproject.toml`` are built by ``setuptools.build_meta:__legacy__`` (PEP 517), without build
isolation that module is looked up on ``PYTHONPATH``, and there pip finds the stand-in below, which hands back the
metadata that the archive's own ``PKG-INFO`` states. Nothing from the archive runs. (One *with* a ``pyproject.toml``
that names another build system fails here, unless that happens to be installed: fetch the wheel of such a package.)
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from igc.errors import FetchError
from igc.fetch.package import Package
from igc.fetch.process import run

_STAND_IN = '''\
"""A build system that builds nothing: it hands back the metadata that a source archive states."""
import email, pathlib, shutil

class __legacy__:
    def prepare_metadata_for_build_wheel(directory, config_settings=None):
        stated = email.message_from_bytes(pathlib.Path("PKG-INFO").read_bytes())
        folder = pathlib.Path(directory, f"{stated['Name']}-{stated['Version']}.dist-info")
        folder.mkdir()
        shutil.copyfile("PKG-INFO", folder / "METADATA")
        return folder.name
'''

# pip, in a process that ends when its parent does, however that ends: standard input is a pipe that then closes. A pip
# left behind would go on writing into a folder that the next fetch has tidied away.
_WATCHED_PIP = """\
import os, runpy, threading

def end_with_parent():
    os.read(0, 1)
    os._exit(1)

threading.Thread(target=end_with_parent, daemon=True).start()
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


def download(package: Package, folder: Path, remedy: str, report: Callable[[int], None]) -> Path:
    """Bring ``package``'s file into ``folder``, which is private to this call; everything pip writes stays in there.

    Args:
        package: what to ask the index for.
        folder: an existing, empty folder.
        remedy: what the user can do instead; ends every error message.
        report: called several times a second with the bytes downloaded so far.

    Returns:
        The downloaded file; its content has not been checked.

    Raises:
        FetchError: there is no pip, or it failed; the message carries the last thing that pip said.
    """
    if importlib.util.find_spec("pip") is None:
        raise FetchError(
            f"cannot download {package.requirement}: this Python has no pip; "
            f"run '{sys.executable} -m ensurepip', or {remedy}"
        )
    target, scratch, stand_in = folder / "pip", folder / "scratch", folder / "path" / "setuptools"
    for new in (target, scratch, stand_in):
        new.mkdir(parents=True)
    (stand_in / "__init__.py").touch()
    (stand_in / "build_meta.py").write_text(_STAND_IN, encoding="utf-8")
    only = "--only-binary" if package.kind == "wheel" else "--no-binary"
    command = [sys.executable, "-c", _WATCHED_PIP, "download", "--no-deps", "--no-build-isolation", only, ":all:"]
    command += ["--no-cache-dir", "--progress-bar", "off", "--no-input", "--disable-pip-version-check"]
    command += ["--dest", str(target)]
    log = folder / "pip.log"
    code = run([*command, package.requirement], folder, _environment(scratch, stand_in.parent), log, report)
    found = target / package.filename
    if code == 0 and found.is_file():
        return found
    said = log.read_text(encoding="utf-8", errors="replace")
    if "No space left on device" in said:
        raise FetchError(no_space(package.requirement, folder, 3 * package.size))
    got = ", ".join(sorted(path.name for path in target.iterdir()))
    why = f"the index gave {got}, not {package.filename}" if got else f"pip said: {_last_word(said)}"
    raise FetchError(f"cannot download {package.requirement} ({why}); {remedy}")


def no_space(what: str, folder: Path, needs: int) -> str:
    """The message for a full disk; ``needs`` is in bytes."""
    return f"no space left under {folder} for {what} (about {needs / 1e6:.0f} MB); free some, or set IGC_HOME"


def _environment(scratch: Path, path: Path) -> dict[str, str]:
    environment = dict(os.environ)
    # pip downloads into the temporary folder first: where the bytes can be watched, and where nothing is left behind.
    environment |= {name: str(scratch) for name in ("TMPDIR", "TEMP", "TMP")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(path), environment.get("PYTHONPATH"))))
    environment["PIP_USE_PEP517"] = "1"  # pip < 25.3 would otherwise run setup.py itself
    return environment


def _last_word(said: str) -> str:
    """The line of pip's output that tells most: the last error, else the last warning, else the last line."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", said).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    warnings = [line for line in lines if line.startswith("WARNING:")]
    # With no way to the index the errors only say that no version was found; the warnings say why.
    unreachable = [line for line in warnings if "onnection" in line or "timed out" in line or "Retrying" in line]
    unreachable = [line.partition(" after ")[2] or line for line in unreachable]  # "Retrying (...) after ..."
    return (unreachable[-1:] or errors[-1:] or warnings[-1:] or lines[-1:] or ["nothing"])[-1][:300]
