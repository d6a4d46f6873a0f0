#!/usr/bin/env bash
# The kernel tests under AddressSanitizer and UBSan: builds src/native apart, with GCC, and has igc load that build.
#
#     tests/native/sanitize.sh [pytest arguments]        PYTHON=... chooses the interpreter, .venv's by default
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

cmake -S "$root" -B "$build" -DIGC_SANITIZE=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_COMPILER="${CXX:-g++}" >/dev/null
cmake --build "$build" --parallel 2 >/dev/null

# Leaks are not looked for: the interpreter and PyTorch keep what they allocate. PyTorch's own libraries are not
# instrumented, so mismatches of allocators and doubly defined symbols among them are not ours to report.
cd "$root"
export IGC_NATIVE_LIBRARY=$build/_native.so
export LD_PRELOAD=$("${CXX:-g++}" -print-file-name=libasan.so)
export ASAN_OPTIONS=detect_leaks=0:alloc_dealloc_mismatch=0:detect_odr_violation=0:abort_on_error=0
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
"$python" -c 'from igc.projection.kernels import names; assert names()[0] != "reference", "the sanitized build was not loaded"'
"$python" -m pytest -q -p no:cacheprovider tests/projection/test_kernels.py tests/projection/test_scaled.py "$@"
