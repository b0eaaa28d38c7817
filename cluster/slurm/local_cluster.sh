#!/usr/bin/env bash
# Runs a real Slurm on this one machine, to try job scripts and to test them: slurmctld and two slurmd on one host.
#   cluster/slurm/local_cluster.sh start DIR [NODES]   prints the line that makes sbatch, srun and squeue use it
#   cluster/slurm/local_cluster.sh stop DIR            ends its jobs and daemons
#   cluster/slurm/local_cluster.sh check               says why it cannot run here; says nothing if it can
# DIR holds everything: configuration, key, logs, state. It takes free ports and does not touch a Slurm that the machine
# already has. Needs root and Debian's packages slurmctld slurmd slurm-client munge (launch/setup.sh --slurm).
set -euo pipefail

die() { echo "error: $*" >&2; exit 1; }
usage() { sed -n '2,7p' "$0" >&2; exit 2; }

check() {
  local program
  for program in slurmctld slurmd munged sbatch scontrol; do
    command -v "$program" >/dev/null || die "there is no $program here; to fix, run: launch/setup.sh --slurm"
  done
  # slurmd starts tasks as their users, and munged must own the directory of its socket.
  [ "$(id -u)" = 0 ] || die "slurmd needs root; run this script as root"
}

free_ports() {  # COUNT ports in a row
  python3 - "$1" <<'PY'
import socket, sys
for first in range(21000, 32000, 16):
    try:
        for port in range(first, first + int(sys.argv[1])):
            with socket.socket() as s:
                s.bind(("", port))
    except OSError:
        continue
    print(first)
    break
PY
}

# Two nodes on one machine: each has its own name, port and spool. Tasks are tracked by their parents (linuxproc) and
# not bound (none), because we cannot make cgroups in a container.
write_config() {
  local dir=$1 nodes=$2 port=$3 host
  host=$(hostname -s)
  cat >"$dir/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire: how long a requeued job waits for its last start's credentials to end (default 120 s, at least 5).
AuthInfo=socket=$dir/munge/socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# The scheduler runs often, so that a requeued job does not wait half a minute for it.
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0,sched_interval=2,bf_interval=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
KillWait=5
StateSaveLocation=$dir/state
SlurmctldPidFile=$dir/slurmctld.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdSpoolDir=$dir/spool.%n
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmdLogFile=$dir/slurmd.%n.log
# PMIx keeps one directory per step here, and two nodes of one machine must not share it.
TmpFS=$dir/tmp.%n
NodeName=node[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
}

start() {
  local dir nodes=${2:-2} port i
  check
  mkdir -p "$1"
  dir=$(cd "$1" && pwd)
  [ ! -e "$dir/slurm.conf" ] || die "$dir already holds a cluster; to stop it, run: $0 stop $dir"
  mkdir -p "$dir/munge" "$dir/state"
  for i in $(seq "$nodes"); do mkdir -p "$dir/spool.node$i" "$dir/tmp.node$i"; done
  port=$(free_ports $((nodes + 1)))
  [ -n "$port" ] || die "there are not enough free ports between 21000 and 32000; stop a program that uses them"
  write_config "$dir" "$nodes" "$port"
  (umask 077 && head -c 1024 /dev/urandom >"$dir/munge/key")
  export SLURM_CONF=$dir/slurm.conf
  # --force: DIR may lie below a directory that others may write to, such as /tmp.
  munged --force --socket="$dir/munge/socket" --key-file="$dir/munge/key" --pid-file="$dir/munge/pid" \
    --seed-file="$dir/munge/seed" --log-file="$dir/munge/log" 2>"$dir/munge/errors" || die "munged: $(cat "$dir/munge/errors")"
  slurmctld || die "slurmctld did not start; see $dir/slurmctld.log"
  for i in $(seq "$nodes"); do slurmd -N "node$i" || die "slurmd did not start; see $dir/slurmd.node$i.log"; done
  for i in $(seq 100); do
    [ "$(sinfo -h -t idle -o %D 2>/dev/null)" = "$nodes" ] && break
    [ "$i" != 100 ] || { stop "$dir" 2>/dev/null; die "the nodes did not come up; see the logs in $dir"; }
    sleep 0.2
  done
  echo "export SLURM_CONF=$dir/slurm.conf"
}

# end PIDFILE: ends the process whose number is in the file, which this cluster started.
end() {
  local pid
  pid=$(cat "$1" 2>/dev/null) || return 0
  kill "$pid" 2>/dev/null || return 0
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.1; done
  kill -9 "$pid" 2>/dev/null || true
}

stop() {
  local dir pidfile
  dir=$(cd "$1" 2>/dev/null && pwd) || die "$1 is not a directory; give the DIR of start"
  [ -e "$dir/slurm.conf" ] || die "$1 holds no running cluster; give the DIR of start"
  export SLURM_CONF=$dir/slurm.conf
  scancel --user=root 2>/dev/null || true
  for _ in $(seq 50); do [ -z "$(squeue -h 2>/dev/null)" ] && break; sleep 0.2; done
  for pidfile in "$dir"/slurmd.*.pid "$dir/slurmctld.pid" "$dir/munge/pid"; do end "$pidfile"; done
  mv "$dir/slurm.conf" "$dir/slurm.conf.stopped"
}

case "${1:-}" in
  start) [ $# -ge 2 ] || usage; start "$2" "${3:-2}" ;;
  stop) [ $# = 2 ] || usage; stop "$2" ;;
  check) check ;;
  *) usage ;;
esac
