# A plain CPU cluster with Open MPI, one rank per NUMA node (DEVICES=2 for two sockets). The job script sources this
# file. Cores with avx512_bf16 or AMX tune three times as fast as others: choose a partition that has them.
# shellcheck shell=bash

if command -v module >/dev/null; then
  module load openmpi hdf5-parallel roundtable
fi

# The job script asks for no GPUs when it submits itself.
export ROUNDTABLE_DEVICE=cpu
# Threads stay where they are: a core's cache keeps its part of a weight from one step to the next.
export OMP_PROC_BIND=close OMP_PLACES=cores
# LibTorch's threads spin while they wait for work, which takes cycles from the rank that still works. So they spin for
# a short time and then sleep.
export GOMP_SPINCOUNT=10000
# Gradients of a block are gigabytes. The ring (4) moves the fewest bytes, and bytes are what counts over Ethernet.
export OMPI_MCA_coll_tuned_use_dynamic_rules=1
export OMPI_MCA_coll_tuned_allreduce_algorithm=4

# Shared file systems often have no working flock(). One job alone writes the boundaries, so no lock is needed.
export HDF5_USE_FILE_LOCKING=FALSE
