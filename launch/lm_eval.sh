#!/usr/bin/env bash
# Benchmarks of a model directory with EleutherAI's lm-evaluation-harness:
#   launch/lm_eval.sh MODEL_DIR [TASKS] [more arguments of lm_eval]      TASKS: default arc_easy,hellaswag,piqa,winogrande
#   launch/lm_eval.sh MODEL_DIR --text FILE [--seqlen N] [more arguments of lm_eval]
#     perplexity of your text (.txt, .jsonl, .json or .parquet with "text") in windows of N tokens (2048); it needs no
#     network, while the data of TASKS comes from the Hugging Face hub
# Run it on the float model and on the quantized one, and compare. It loads the model with transformers, which reads
# the output format auto_round:auto_gptq through the package auto-round. Environment: PYTHON, a Python with lm_eval and
# auto-round. If it is not set, the script in a source tree makes one (setup.sh), and an installed script takes python3.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

usage() { sed -n '2,9p' "$0"; }
refuse() { printf 'error: %s\n' "$*" >&2; exit 2; }

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  "" | -*) usage >&2; exit 2 ;;
esac
model=${1%/}
shift
tasks=arc_easy,hellaswag,piqa,winogrande text="" seqlen=2048
case "${1:-}" in
  --text)
    [ -n "${2:-}" ] || refuse "--text takes a file"
    text=$(realpath -m -- "$2"); shift 2
    if [ "${1:-}" = --seqlen ]; then
      [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || refuse "--seqlen takes a whole number from 1, not '${2:-}'"
      seqlen=$2; shift 2
    fi ;;
  "" | -*) ;;
  *) tasks=$1; shift ;;
esac

[ -f "$model/config.json" ] || refuse "$model holds no config.json; give a model directory"
arguments="pretrained=$model,dtype=auto"
if [ -n "$text" ]; then
  [ -s "$text" ] || refuse "$text does not exist or is empty; give a file with text"
  case "$text" in  # the names of datasets' readers
    *.txt) form=text options=", sample_by: document" ;;
    *.json | *.jsonl) form=json options="" ;;
    *.parquet) form=parquet options="" ;;
    *) refuse "$text: the name must end in .txt, .jsonl, .json or .parquet" ;;
  esac
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  tasks=$work/task.yaml
  cat >"$tasks" <<YAML
include: "$here/lm_eval/heldout_perplexity.yaml"
dataset_path: $form
dataset_kwargs: {data_files: {test: "$text"}$options}
YAML
  arguments+=,max_length=$seqlen
  export HF_HUB_OFFLINE=1
fi

if [ -z "${PYTHON:-}" ] && [ -e "$here/setup.sh" ]; then
  source "$here/common.sh"
  "$here/setup.sh" --lm-eval --no-build
  PYTHON=$lm_eval_venv/bin/python
fi
python=${PYTHON:-python3}
"$python" -c 'import lm_eval' 2>/dev/null ||
  refuse "$python has no lm_eval; to fix, run: $python -m pip install lm-eval auto-round"
# lm_eval finds a batch size by trying 64 windows and fewer. Without a GPU the first try would take all memory.
batch=1
[[ "$(nvidia-smi -L 2>/dev/null)" != GPU* ]] || batch=auto
"$python" -m lm_eval --model hf --model_args "$arguments" --tasks "$tasks" --batch_size $batch \
  --output_path "$model.lm_eval" "$@"
