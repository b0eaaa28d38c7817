#!/usr/bin/env bash
# C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer, those over MPI at two ranks. Builds build-asan/.
#   launch/sanitize.sh           every C++ test and the fuzz test, a part of launch/test.sh; LibTorch's headers take minutes
#   launch/sanitize.sh --quick   only the folders that do not use LibTorch
# Leaks are not checked: Open MPI and LibTorch keep memory to the end.
source "$(dirname "$0")/common.sh"
cd "$root"

targets=(sanitize_tests) select=()
case "${1:-}" in
  "") ;;
  --quick)
    targets=(base_test config_test io_test data_test comm_test cache_test)
    select=(-R '^(base|config|io|data|comm|cache)_test(\.|_2_ranks)') ;;
  *) sed -n '2,5p' "$0" >&2; exit 2 ;;
esac

launch/setup.sh --no-build
export ROUNDTABLE_PYTHON=${ROUNDTABLE_PYTHON:-$venv/bin/python}
say "building in build-asan"
cmake --preset asan >build-asan.log 2>&1 || { tail -30 build-asan.log; die "cmake failed; the whole log is build-asan.log"; }
cmake --build build-asan --target "${targets[@]}"
say "testing under sanitizers"
exec ctest --preset asan -j "$(nproc)" ${select[@]+"${select[@]}"}
