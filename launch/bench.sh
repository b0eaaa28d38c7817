#!/usr/bin/env bash
# The speed bench: installs, builds, and runs Roundtable and auto-round in turns on the first blocks of SmolLM2-135M.
#   launch/bench.sh [--device cpu|cuda] [--json] [--iters N] [--repeats N] [--blocks N] [--out FILE]
#   launch/bench.sh --families [--json] [--iters N] [--repeats N] [--blocks N] [--out FILE]
#     --device D   cpu (default): both tools, the matrix products alone, ranks, kernels; cuda: on this node's GPUs the
#                  kernels, the matrix products of a step and the sum of the gradients over NCCL
#     --families   small random blocks in the shapes of gemma3, qwen3, phi3, gpt2 and deepseek_v3: a step of both tools
#                  over its matrix products alone
#     --json       stdout has one JSON object and nothing else; all other text goes to stderr
#     --iters N    steps per block (40)
#     --repeats N  rounds of all runs in turns (2)
#     --blocks N   the model's first blocks, from 2; the first one is not counted (3)
#     --memory-peak GB/S, --matrix-peak TFLOP/S  of the GPU's data sheet, dense bf16; known for H100, H200 and A100
#     --out FILE   the JSON file (BUILD/bench/speed.json); plot (.svg) and logs of the tools (logs/) go next to it
# It needs two cores for a quarter of an hour after the installation, and the machine must be idle. What is measured,
# and how: tests/bench/README.md.
source "$(dirname "$0")/common.sh"

usage() { sed -n '2,16p' "${BASH_SOURCE[0]}"; }
refuse() { printf 'error: %s (launch/bench.sh --help)\n' "$*" >&2; exit 2; }

device=cpu families='' out='' options=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --json) options+=(--json); shift; continue ;;
    --families) families=yes; shift; continue ;;
    --device) [[ "${2:-}" =~ ^(cpu|cuda)$ ]] || refuse "--device takes cpu or cuda, not '${2:-}'"; device=$2 ;;
    --iters | --repeats)
      [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || refuse "$1 takes a whole number from 1, not '${2:-}'"; options+=("$1" "$2") ;;
    --blocks)
      [[ "${2:-}" =~ ^([2-9]|[1-9][0-9]+)$ ]] || refuse "$1 takes a whole number from 2, not '${2:-}'"
      options+=("$1" "$2") ;;
    --memory-peak | --matrix-peak)
      [[ "${2:-}" =~ ^[1-9][0-9]*(\.[0-9]+)?$ ]] || refuse "$1 takes a number from 1, not '${2:-}'"
      options+=("$1" "$2") ;;
    --out) [ -n "${2:-}" ] || refuse "--out takes a file"; out=$(realpath -m -- "$2") ;;
    *) refuse "unknown argument '$1'" ;;
  esac
  shift 2
done

out=${out:-$build/bench/${families:+families-}speed.json}
[ -z "$families" ] || [ "$device" = cpu ] || refuse "--families runs on a CPU; leave --device out"

# Checked before the installation, which takes minutes.
if [ "$device" = cuda ] && [[ "$(nvidia-smi -L 2>/dev/null)" != GPU* ]]; then
  die "--device cuda needs a GPU, and nvidia-smi finds none here; use --device cpu"
fi
cd "$root"  # the demo's paths start here

# make_inputs: the demo's model, and its text in samples of 512 tokens.
make_inputs() {
  make_smollm2
  launch/sample_text.sh demo/text
  mkdir -p "$(dirname "$tokens")"
  "$venv/bin/python" launch/prepare_calibration.py --model "$smollm2" --text demo/text/calibration.txt --concat \
    --seqlen 512 --n-samples 128 --out "$tokens"
}

if [ -n "$families" ]; then
  launch/setup.sh --peer >&2
  say "measuring small blocks of several families"
  ROUNDTABLE_BINARY=$build/src/roundtable exec "$peer_venv/bin/python" tests/bench/families.py --out "$out" \
    ${options[@]+"${options[@]}"}
fi
if [ "$device" = cuda ]; then
  launch/setup.sh >&2
  say "checking the results of the kernels and of NCCL on this GPU, before their speed"
  ctest --test-dir "$build" --output-on-failure --no-tests=error -R '^(fake_quant_cuda_test\.|nccl_test_)' >&2 ||
    die "the tests of the CUDA kernels or of NCCL failed (see above), or this build has none: run launch/setup.sh again, which installs the CUDA compiler"
  cmake --build "$build" --target nccl_bench >&2
  options+=(--nccl "$build/tests/bench/nccl_bench")
  python=$venv/bin/python
else
  launch/setup.sh --peer >&2
  tokens=$build/bench/calibration.safetensors
  make_inputs >&2
  options+=(--model "$smollm2" --tokens "$tokens")
  python=$peer_venv/bin/python
fi
cmake --build "$build" --target kernels_bench >&2

say "measuring on $device"
ROUNDTABLE_BINARY=$build/src/roundtable exec "$python" tests/bench/speed.py --device "$device" \
  --kernels "$build/tests/bench/kernels_bench" --out "$out" ${options[@]+"${options[@]}"}
