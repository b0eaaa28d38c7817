#!/usr/bin/env bash
# Benchmarks of a model directory with EleutherAI's lm-evaluation-harness, where that is installed (pip install lm-eval):
#   launch/lm_eval.sh MODEL_DIR [TASKS] [more arguments of lm_eval]      TASKS: default arc_easy,hellaswag,piqa,winogrande
# Run it on the float model and on the quantized one, and compare. It loads the model with transformers, which reads
# the output format auto_round:auto_gptq through the package auto-round. Environment: PYTHON (default python3).
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,5p' "$0" >&2; exit 2; }
model=$1
tasks=${2:-arc_easy,hellaswag,piqa,winogrande}
shift $(($# < 2 ? $# : 2))
python=${PYTHON:-python3}

[ -f "$model/config.json" ] || { echo "error: $model holds no config.json; give a model directory" >&2; exit 2; }
"$python" -c 'import lm_eval' 2>/dev/null ||
  { echo "error: $python has no lm_eval; mend: $python -m pip install lm-eval auto-round" >&2; exit 2; }
exec "$python" -m lm_eval --model hf --model_args "pretrained=$model,dtype=auto" --tasks "$tasks" --batch_size auto \
  --output_path "$model.lm_eval" "$@"
