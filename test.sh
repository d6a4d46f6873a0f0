#!/usr/bin/env bash
# Install into .venv what is needed, then check format, lint, types and import arrows, and run the tests.
# Arguments go to pytest: ./test.sh tests/projection -k fastfood. PYTHON=python3.12 chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

step() { # step NAME COMMAND...: run a command, and say how long it took
  local name=$1 began=$SECONDS
  shift
  echo "== $name"
  "$@"
  echo "   $name: $((SECONDS - began)) s"
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() { # print the interpreter to use: $PYTHON, or else the first that is new enough
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    version_of "$candidate" >/dev/null && echo "$candidate" && return
  done
  echo "test.sh: needs Python 3.11 or newer${PYTHON:+, which $PYTHON is not}; name one with PYTHON=... ./test.sh" >&2
  return 2
}

make_venv() { # make .venv where there is none that works, or where PYTHON asks for another version
  if .venv/bin/python -m pip --version >/dev/null 2>&1; then
    [[ -z ${PYTHON:-} || $(version_of .venv/bin/python) == "$(version_of "$PYTHON")" ]] && return
  fi
  local python
  python=$(find_python)
  "$python" -m venv --clear .venv
}

install() { # install igc with its development tools, unless that was done since what it is made from last changed
  local wanted stamp=.venv/installed
  wanted=$({ cat pyproject.toml constraints.txt CMakeLists.txt src/native/* 2>/dev/null || true; } | cksum)
  [[ -f $stamp && $(<$stamp) == "$wanted" ]] && return
  echo "   installing into .venv; the first time takes a few minutes"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
  echo "$wanted" >$stamp
}

step environment make_venv
step install install
step format .venv/bin/ruff format --check .
step lint .venv/bin/ruff check .
step types .venv/bin/mypy
step imports .venv/bin/lint-imports --no-logo
echo "== tests"
.venv/bin/python -m pytest -n 2 -m "not slow" "$@" # exit code 5, a failure, where no test was collected
