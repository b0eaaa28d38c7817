#!/usr/bin/env bash
# Starts one rank on the cores and the memory of a NUMA node: rank i of a node on NUMA node i, round and round.
#   bind.sh COMMAND...      bind.sh --show prints the cores
set -eu
rank=${SLURM_LOCALID:-${OMPI_COMM_WORLD_LOCAL_RANK:?started by neither srun nor mpirun}}
nodes=(/sys/devices/system/node/node[0-9]*)
node=$((rank % ${#nodes[@]}))
if [ "$1" = --show ]; then echo "cores $(cat "/sys/devices/system/node/node$node/cpulist")"; exit; fi
# Without numactl the kernel's own placement is near enough: memory comes from the node of the first touch.
command -v numactl >/dev/null || exec taskset -c "$(cat "/sys/devices/system/node/node$node/cpulist")" "$@"
exec numactl --cpunodebind="$node" --preferred="$node" "$@"
