#!/usr/bin/env bash
# Lets a job under mpirun leave in time on SIGTERM too.
#   launch/leave_in_time.sh mpirun -n 8 roundtable quantize my.yaml
# Open MPI's mpirun passes SIGUSR1 on to the ranks, but on SIGTERM it kills them a second later. This script passes
# both signals on as SIGUSR1: the ranks save what they have finished, and the job ends with exit code 75. A second
# signal ends the job at once. The script ends with the exit code of the command.
set -u
[ $# -gt 0 ] || { sed -n '2,6p' "$0"; exit 2; }

"$@" &
job=$!
pass_on() { signalled=1; kill -USR1 "$job" 2>/dev/null; }
trap pass_on TERM USR1

# A signal interrupts wait. The exit code that counts is that of a wait without a signal.
while :; do
  signalled=0
  wait "$job"
  now=$?
  [ "$now" = 127 ] || code=$now
  [ "$signalled" = 0 ] && exit "$code"
done
