#!/usr/bin/env bash
# Whole small runs of the program under valgrind's memcheck; sanitizers (launch/sanitize.sh) see only the C++ tests.
#   launch/valgrind.sh [--ranks N]     N ranks under mpirun (1)
# Installs, builds, and quantizes a tiny model in fp32 and in bf16. It takes minutes: loading LibTorch takes over one.
# Ends with 9 if memcheck found an error in our code, and with the exit code of the program if the program failed. Left
# out are reports from inside LibTorch and Open MPI (valgrind.supp). Logs, with suppressions: BUILD/valgrind/*.log.
source "$(dirname "$0")/common.sh"

ranks=1
case "${1:-}" in
  "") ;;
  --ranks) [ $# = 2 ] && [[ "$2" =~ ^[1-9][0-9]*$ ]] || { sed -n '2,6p' "$0" >&2; exit 2; }; ranks=$2 ;;
  *) sed -n '2,6p' "$0" >&2; exit 2 ;;
esac

apt_install valgrind libc6-dbg
"$root/launch/setup.sh"

work=$build/valgrind
rm -rf "$work"
mkdir -p "$work"

# No time limit: under valgrind every step is slower than the watchdog expects.
PYTHONPATH=$root/tests/e2e "$venv/bin/python" - "$work" <<'PY'
import json, pathlib, sys
import tiny_model
work = pathlib.Path(sys.argv[1])
sections = {}
settings = tiny_model.make_inputs(work, rows=8, seqlen=16, num_hidden_layers=2) | {
    "tuning.iters": 3, "parallel.backend": "mpi", "run.eval_tokens": str(work / "tokens.safetensors"), "run.time_limit": ""}
for key, value in settings.items():
    section, name = key.split(".")
    sections.setdefault(section, {})[name] = value
(work / "config.yaml").write_text(json.dumps(sections))  # JSON is YAML
PY

# Kinds of errors that valgrind.supp calls Any. Not among them: jumps to nowhere, which are the caller's fault.
kinds=(Cond Overlap Free Value{1,2,4,8,16,32} Addr{1,2,4,8,16,32})
for call in 'write(buf)' 'writev(vector[...])' 'pwrite64(buf)' 'process_vm_writev(lvec[...])' \
  'sendmsg(msg.msg_iov[0])' 'socketcall.send(msg)' 'socketcall.sendto(msg)'; do
  kinds+=("Param\\n  $call")
done
for kind in "${kinds[@]}"; do
  sed "/^#/d; s/Memcheck:Any/Memcheck:$kind/" "$root/launch/valgrind.supp"
done >"$work/all.supp"

memcheck=(valgrind --quiet --error-exitcode=9 --track-origins=no --leak-check=no --num-callers=40
  --gen-suppressions=all --suppressions="$work/all.supp"
  --fair-sched=try)  # so that a thread that polls MPI does not starve the others
shipped=/usr/share/openmpi/openmpi-valgrind.supp
[ ! -e "$shipped" ] || memcheck+=(--suppressions="$shipped")

# Valgrind has no AVX-512 and tells so by CPUID, from which our own kernels (RT_SIMD_CLONES) and glibc choose. Libraries
# that could ask the kernel instead are told by these variables.
export ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 CUDA_VISIBLE_DEVICES=
# Ranks of one machine need no network. Ranks that wait give up their core.
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader OMPI_MCA_osc=^ucx OMPI_MCA_mpi_yield_when_idle=1
export OMP_NUM_THREADS=1

result=0
for amp in false true; do
  say "quantize with tuning.amp=$amp under valgrind, ranks: $ranks"
  code=0
  mpirun -n "$ranks" --bind-to none --oversubscribe "${memcheck[@]}" --log-file="$work/amp-$amp.%p.log" \
    "$build/src/roundtable" quantize "$work/config.yaml" --set tuning.amp=$amp --set output.path="$work/out-$amp" || code=$?
  [ "$code" = 0 ] || result=$code
  # With --quiet a log has lines only if something was found.
  find "$work" -name "amp-$amp.*.log" -size +0 -exec cat {} + >&2
done
[ "$result" = 0 ] || { say "failed with $result; logs: $work"; exit "$result"; }
say "no errors in our code"
