# A Slingshot machine: one EPYC of 64 cores, four A100 and four Slingshot 11 ports a node (HPE Cray EX). Sourced by the
# job script. Figures for the forecast: configs/clusters/a100-8.yaml, with devices_a_node: 4.
# shellcheck shell=bash

# PrgEnv-gnu: a C++20 compiler with Cray MPICH. The parallel HDF5 must be the one of the same MPI.
if command -v module >/dev/null; then
  module load PrgEnv-gnu cray-hdf5-parallel cudatoolkit roundtable
fi

# Slurm's own start of Cray MPICH; it has no mpirun.
export ROUNDTABLE_LAUNCHER=cray_shasta
# MPI moves host memory only; with GPU support on, MPICH wants a library that the program is not linked with.
export MPICH_GPU_SUPPORT_ENABLED=0
# A rank uses the port of its own NUMA node, as bind.sh places it.
export MPICH_OFI_NIC_POLICY=NUMA
# Lustre: two writers a storage target keep a boundary's stripes busy; the file should be striped over some (lfs setstripe).
export MPICH_MPIIO_HINTS="*.h5:cray_cb_nodes_multiplier=2"

# NCCL reaches Slingshot through libfabric and the plugin aws-ofi-nccl; without this line a missing plugin would mean
# TCP, ten times slower and unnoticed. Only groups that span nodes (parallel.shards above 4) are touched by it.
export NCCL_NET="AWS Libfabric"
# Each device talks through the port next to it, and rings may leave a node by another port than they entered.
export NCCL_CROSS_NIC=1
export NCCL_NET_GDR_LEVEL=PHB
# The plugin registers device memory itself; libfabric's own registration of host memory with CUDA can dead-lock then.
export FI_CXI_DISABLE_HOST_REGISTER=1
# Allocations freed by LibTorch's cache must leave the registration cache: this monitor sees all of them.
export FI_MR_CACHE_MONITOR=userfaultfd

# Lustre without flock in the mount options fails HDF5's open otherwise.
export HDF5_USE_FILE_LOCKING=FALSE
