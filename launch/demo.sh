#!/usr/bin/env bash
# From a bare machine to a quantized model: installs, builds, and quantizes SmolLM2-135M to 4 bits on two MPI ranks.
#   launch/demo.sh [CONFIG] [--set section.key=value ...]     (default configs/smollm2-135m-w4g64.yaml)
# Running it again skips what is already installed and built. Results go to demo/, the float model to ROUNDTABLE_CACHE.
source "$(dirname "$0")/common.sh"
cd "$root"  # the recipe's paths start here

config=configs/smollm2-135m-w4g64.yaml
case "${1:-}" in
  "" | --set) ;;
  -*) sed -n '2,4p' launch/demo.sh; exit 2 ;;
  *) config=$1; shift ;;
esac

launch/setup.sh
python=$venv/bin/python

mkdir -p demo
make_smollm2
ln -sfn "$smollm2" demo/model

launch/sample_text.sh demo/text
# Made again each time: it takes seconds, and the same text gives the same bytes.
"$python" launch/prepare_calibration.py --model demo/model --text demo/text/calibration.txt --concat \
  --seqlen 256 --n-samples 128 --out demo/calibration.safetensors
"$python" launch/prepare_calibration.py --model demo/model --text demo/text/heldout.txt --concat \
  --seqlen 512 --n-samples 64 --allow-fewer --out demo/heldout.safetensors

# No binding: Open MPI would pin each rank, and with it all its threads, to one core.
run=(mpirun -n 2 --bind-to none --oversubscribe "${build#"$root"/}/src/roundtable" quantize "$config" "$@")
say "${run[*]}"
"${run[@]}"
say "done. To run only this step: cd $root && ${run[*]}"
