# A Slingshot machine: one EPYC of 64 cores, four A100 and four Slingshot 11 ports per node (HPE Cray EX). The job
# script sources this file. Figures for the forecast: configs/clusters/a100-8.yaml, with devices_a_node: 4.
# shellcheck shell=bash

# PrgEnv-gnu: a C++20 compiler with Cray MPICH. The parallel HDF5 must be built with the same MPI.
if command -v module >/dev/null; then
  module load PrgEnv-gnu cray-hdf5-parallel cudatoolkit roundtable
fi

# Slurm's own way to start Cray MPICH, which has no mpirun.
export ROUNDTABLE_LAUNCHER=cray_shasta
# MPI moves only host memory. With GPU support MPICH would need a library that the program is not linked with.
export MPICH_GPU_SUPPORT_ENABLED=0
# A rank uses the port of its own NUMA node, as bind.sh places it.
export MPICH_OFI_NIC_POLICY=NUMA
# Lustre: two writers per storage target keep the stripes of a boundary busy. Stripe its folder over several targets
# (lfs setstripe).
export MPICH_MPIIO_HINTS="*.h5:cray_cb_nodes_multiplier=2"

# NCCL reaches Slingshot through libfabric and the plugin aws-ofi-nccl. With this line NCCL fails if the plugin is
# missing; without it, it would use TCP, ten times slower, and nobody would notice. This matters only to groups that
# span nodes (parallel.shards above 4).
export NCCL_NET="AWS Libfabric"
# Each device uses the port next to it, and a ring may leave a node by a different port than it entered.
export NCCL_CROSS_NIC=1
export NCCL_NET_GDR_LEVEL=PHB
# The plugin registers device memory itself. libfabric's own registration of host memory with CUDA can then deadlock.
export FI_CXI_DISABLE_HOST_REGISTER=1
# Memory that LibTorch's cache frees must leave the registration cache: this monitor sees all of it.
export FI_MR_CACHE_MONITOR=userfaultfd

# If Lustre is mounted without flock, HDF5 cannot open a file unless its locks are off.
export HDF5_USE_FILE_LOCKING=FALSE
