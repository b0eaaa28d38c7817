#!/usr/bin/env bash
# Starts one rank on the cores and the memory of its device's socket: devices 0 to 3 hang at NUMA node 0 (cores 0 to
# 55), devices 4 to 7 at node 1 (56 to 111); `nvidia-smi topo -m` shows it. 14 cores a rank, hyper-threads left idle.
#   bind.sh COMMAND...      bind.sh --show prints the cores
set -eu
rank=${SLURM_LOCALID:-${OMPI_COMM_WORLD_LOCAL_RANK:?started by neither srun nor mpirun}}
first=$((rank * 14))
if [ "$1" = --show ]; then echo "cores $first-$((first + 13))"; exit; fi
# Preferred, not bound: page cache of a large checkpoint may spill to the other socket.
exec numactl --physcpubind="$first-$((first + 13))" --preferred=$((rank / 4)) "$@"
