#!/usr/bin/env bash
# Starts one rank on the NUMA node of its device. On these nodes the order is reversed: device 0 belongs to NUMA node 3
# (cores 48 to 63), device 3 to node 0 (0 to 15); `nvidia-smi topo -m` shows it.
#   bind.sh COMMAND...      bind.sh --show prints the cores
set -eu
rank=${SLURM_LOCALID:?is not set: start bind.sh by srun}
node=$((3 - rank))
first=$((node * 16))
if [ "$1" = --show ]; then echo "cores $first-$((first + 15))"; exit; fi
exec numactl --physcpubind="$first-$((first + 15))" --preferred="$node" "$@"
