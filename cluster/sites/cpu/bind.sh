#!/usr/bin/env bash
# Starts one rank on the cores and the memory of a NUMA node: rank i on NUMA node i, then from the first one again.
#   bind.sh COMMAND...      bind.sh --show prints the cores
set -eu
rank=${SLURM_LOCALID:-${OMPI_COMM_WORLD_LOCAL_RANK:?is not set: start bind.sh by srun or mpirun}}
nodes=(/sys/devices/system/node/node[0-9]*)
node=$((rank % ${#nodes[@]}))
if [ "$1" = --show ]; then echo "cores $(cat "/sys/devices/system/node/node$node/cpulist")"; exit; fi
# Without numactl the kernel's own placement is good enough: memory comes from the node that first touches it.
command -v numactl >/dev/null || exec taskset -c "$(cat "/sys/devices/system/node/node$node/cpulist")" "$@"
exec numactl --cpunodebind="$node" --preferred="$node" "$@"
