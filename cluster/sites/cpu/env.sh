# A plain CPU cluster with Open MPI, one rank a NUMA node (DEVICES=2 for two sockets). Sourced by the job script.
# Cores with avx512_bf16 or AMX tune three times as fast as those without: see that the partition has them.
# shellcheck shell=bash

if command -v module >/dev/null; then
  module load openmpi hdf5-parallel roundtable
fi

# No GPUs are asked for where the job script submits itself.
export ROUNDTABLE_DEVICE=cpu
# Threads stay where they are: a core's cache keeps its part of a weight from one step to the next.
export OMP_PROC_BIND=close OMP_PLACES=cores
# LibTorch's pool of threads spins while it waits for work, which takes cycles from the rank that still works; a short
# spin, then sleep.
export GOMP_SPINCOUNT=10000
# Gradients of a block are gigabytes: the ring (4) moves the fewest bytes, which is what counts over Ethernet.
export OMPI_MCA_coll_tuned_use_dynamic_rules=1
export OMPI_MCA_coll_tuned_allreduce_algorithm=4

# Shared file systems often have no working flock(); the boundaries are written by one job, which knows what it does.
export HDF5_USE_FILE_LOCKING=FALSE
