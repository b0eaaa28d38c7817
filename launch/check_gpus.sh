#!/usr/bin/env bash
# Says in at most 12 minutes whether the GPUs of this node are fit for Roundtable, and how fast they are with it. Run it on
# a node with GPUs before the first job. It installs and builds first, which its 12 minutes do not count.
#   launch/check_gpus.sh [--ranks N] [--out FILE] [--limit SECONDS]
#     --ranks N        GPUs to use (default: all that LibTorch finds on this node)
#     --out FILE       the JSON file (BUILD/gpu/check.json); the output of each check goes next to it (logs/)
#     --limit SECONDS  checks that would begin later are left out, and the table says so (720)
# Checks: the tests of kernels and NCCL, compute-sanitizer where it is installed, tiny models on GPU and CPU, the same run
# twice and after a kill, kernels compared with a copy, two random blocks of Llama-3.1-70B's shape, NCCL's bandwidth.
# Exit codes: 0 all checks passed, 3 one failed, 2 bad usage or no GPU.
source "$(dirname "$0")/common.sh"

usage() { sed -n '2,11p' "${BASH_SOURCE[0]}"; }
refuse() { printf 'error: %s (launch/check_gpus.sh --help)\n' "$*" >&2; exit 2; }

options=() out=$build/gpu/check.json
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --ranks | --limit) [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || refuse "$1 takes a whole number from 1, not '${2:-}'"
      options+=("$1" "$2") ;;
    --out) [ -n "${2:-}" ] || refuse "--out takes a file"; out=$(realpath -m -- "$2") ;;
    *) refuse "unknown argument '$1'" ;;
  esac
  shift 2
done

# Checked before the installation, which takes minutes.
[[ "$(nvidia-smi -L 2>/dev/null)" == GPU* ]] || refuse "nvidia-smi finds no GPU on this node"
"$root/launch/setup.sh" >&2
cmake --build "$build" --target kernels_bench nccl_bench >&2
ROUNDTABLE_BINARY=$build/src/roundtable exec "$venv/bin/python" "$root/tests/gpu/check_gpus.py" --build "$build" --out "$out" \
  ${options[@]+"${options[@]}"}
