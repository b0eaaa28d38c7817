# A DGX H100: 2 x 56 cores, eight H100 behind NVSwitch, eight ConnectX-7 for InfiniBand NDR. The job script sources
# this file. Figures for the forecast: configs/clusters/h100-8.yaml and h100-8x8.yaml.
# shellcheck shell=bash

# Names differ from site to site. Needed are Open MPI with UCX and PMIx, parallel HDF5 of the same MPI, CUDA 13
# (the LibTorch that setup.sh installs is made with it).
if command -v module >/dev/null; then
  module load openmpi hdf5-parallel cuda roundtable
fi

# Open MPI uses InfiniBand through UCX. With this line a job fails if UCX is not built in; without it, it would silently
# run over TCP.
export OMPI_MCA_pml=ucx
# The eight compute ports of a DGX H100 (ibdev2netdev shows them); the other four belong to storage.
export UCX_NET_DEVICES=mlx5_0:1,mlx5_3:1,mlx5_4:1,mlx5_5:1,mlx5_6:1,mlx5_9:1,mlx5_10:1,mlx5_11:1
# MPI moves only host memory (weights that are broadcast to the ranks); NCCL sums the gradients on devices. So UCX need
# not look for CUDA memory at every call.
export UCX_TLS=rc,sm,self
# The coordinator is a thread that uses MPI at the same time as rank 0 itself; HCOLL's collectives do not support that.
export OMPI_MCA_coll_hcoll_enable=0

# Only a group that spans nodes sends gradients over InfiniBand (parallel.shards above 8): the same ports for it.
export NCCL_IB_HCA=mlx5_0,mlx5_3,mlx5_4,mlx5_5,mlx5_6,mlx5_9,mlx5_10,mlx5_11
# NCCL starts up over the management network. Without this line it would try every interface, docker0 among them.
export NCCL_SOCKET_IFNAME=^docker0,lo

# Shared file systems often have no working flock(). One job alone writes the boundaries, so no lock is needed.
export HDF5_USE_FILE_LOCKING=FALSE
