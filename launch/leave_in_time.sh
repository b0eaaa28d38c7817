#!/usr/bin/env bash
# Lets a job under mpirun leave in time on SIGTERM, too.
#   launch/leave_in_time.sh mpirun -n 8 roundtable quantize my.yaml
# Open MPI's mpirun passes SIGUSR1 on to the ranks, but on SIGTERM it kills them a second later. This passes either on
# as SIGUSR1: the ranks put what they have in a restartable state and the job ends with 75. A second signal ends it at
# once. Ends with the exit code of the command.
set -u
[ $# -gt 0 ] || { sed -n '2,6p' "$0"; exit 2; }

"$@" &
job=$!
pass_on() { signalled=1; kill -USR1 "$job" 2>/dev/null; }
trap pass_on TERM USR1

# A signal interrupts wait; the code that counts is the one after which none came.
while :; do
  signalled=0
  wait "$job"
  now=$?
  [ "$now" = 127 ] || code=$now
  [ "$signalled" = 0 ] && exit "$code"
done
