#!/usr/bin/env bash
# Installs, builds and runs every test. Further arguments go to ctest:
#   launch/test.sh            everything, and launch/sanitize.sh
#   launch/test.sh -L mpi     one kind (unit, mpi, e2e, standin, simt, peer, slurm, gpu)
# The last line says how many GPU tests ran, and how many were skipped because this machine has no GPU.
source "$(dirname "$0")/common.sh"

"$root/launch/setup.sh" --peer --slurm
say "testing"
failed=0
# More tests than cores: many wait for a disk or for ranks to start.
ctest --test-dir "$build" --output-on-failure --output-junit tests.xml -j $(($(nproc) * 3 / 2)) "$@" || failed=1
if [ $# = 0 ]; then "$root/launch/sanitize.sh" || failed=1; fi
/usr/bin/python3 "$root/launch/count_gpu_tests.py" "$build"
exit $failed
