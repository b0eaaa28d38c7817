#!/usr/bin/env bash
# Unit tests and those over two ranks under AddressSanitizer and UndefinedBehaviorSanitizer. Builds build-asan/.
#   launch/sanitize.sh [arguments of ctest]
# Leaks are not looked for: Open MPI and LibTorch keep memory to the end.
source "$(dirname "$0")/common.sh"
cd "$root"

launch/setup.sh --no-build
export ROUNDTABLE_PYTHON=${ROUNDTABLE_PYTHON:-$venv/bin/python}
say "building in build-asan"
cmake --preset asan >build-asan.log 2>&1 || { tail -30 build-asan.log; die "cmake failed; the whole log is build-asan.log"; }
cmake --build --preset asan
say "testing under sanitizers"
exec ctest --preset asan -j "$(nproc)" "$@"
