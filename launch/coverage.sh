#!/usr/bin/env bash
# Counts the lines of each folder of src/ that tests reach. Builds build-coverage/ and runs the tests there:
#   launch/coverage.sh [arguments of ctest]       for example: launch/coverage.sh -L unit
#   launch/coverage.sh --folders base,config,io   only the tests of these folders; needs no LibTorch
source "$(dirname "$0")/common.sh"
cd "$root"

targets=() filter=("$@")
if [ "${1:-}" = --folders ]; then
  [ $# = 2 ] || { sed -n '2,4p' "$0" >&2; exit 2; }
  IFS=, read -ra folders <<<"$2"
  for folder in "${folders[@]}"; do
    while read -r name; do targets+=("$name"); done < <(sed -n 's/^roundtable_test(\(\w*\).*/\1/p' "tests/$folder/CMakeLists.txt")
  done
  filter=(-R "^($(IFS='|'; echo "${targets[*]}"))\\.")
fi

export ROUNDTABLE_PYTHON=${ROUNDTABLE_PYTHON:-$venv/bin/python}
cmake --preset coverage >/dev/null
cmake --build build-coverage ${targets[@]:+--target "${targets[@]}"} >&2
find build-coverage -name '*.gcda' -delete
ctest --test-dir build-coverage --output-on-failure "${filter[@]}" >&2
exec python3 launch/coverage.py build-coverage
