"""Pages opened in headless Chromium, where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


class Visit(NamedTuple):
    """What a visit left behind: the tree after loading, and what went to the console."""

    dom: str
    console: list[str]


def visit(page: Path) -> Visit:
    """Open a page and read its tree; requests to any host fail."""
    done = _chromium(page, "--dump-dom", "--virtual-time-budget=3000")
    return Visit(done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line or "net::" in line])


def picture(page: Path, out: Path, width: int, height: int, *, dark: bool = False) -> Path:
    """A screenshot of a page."""
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    _chromium(page, f"--screenshot={out}", f"--window-size={width},{height}", "--hide-scrollbars", *scheme)
    return out


def _chromium(page: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            CHROMIUM,
            "--headless",
            *(["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []),
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--enable-logging=stderr",
            "--log-level=0",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={profile}",
            *arguments,
            page.as_uri(),
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
