#!/usr/bin/env bash
# Starts one rank on the cores and the memory of its device's socket: devices 0 to 3 belong to NUMA node 0 (cores 0 to
# 55), devices 4 to 7 to node 1 (56 to 111); `nvidia-smi topo -m` shows it. A rank has 14 cores; hyper-threads stay
# idle.
#   bind.sh COMMAND...      bind.sh --show prints the cores
set -eu
rank=${SLURM_LOCALID:-${OMPI_COMM_WORLD_LOCAL_RANK:?is not set: start bind.sh by srun or mpirun}}
first=$((rank * 14))
if [ "$1" = --show ]; then echo "cores $first-$((first + 13))"; exit; fi
# Preferred, not bound: the page cache of a large checkpoint may then use the other socket too.
exec numactl --physcpubind="$first-$((first + 13))" --preferred=$((rank / 4)) "$@"
