#!/usr/bin/env bash
# Installs, builds and runs every test. Further arguments go to ctest:
#   launch/test.sh            everything, and launch/sanitize.sh
#   launch/test.sh -L mpi     one kind (unit, mpi, e2e, peer, slurm, gpu)
source "$(dirname "$0")/common.sh"

"$root/launch/setup.sh" --peer --slurm
say "testing"
ctest --test-dir "$build" --output-on-failure -j "$(nproc)" "$@"
[ $# -gt 0 ] || exec "$root/launch/sanitize.sh"
