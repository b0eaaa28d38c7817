# A DGX H100: 2 x 56 cores, eight H100 behind NVSwitch, eight ConnectX-7 for InfiniBand NDR. Sourced by the job script.
# Figures for the forecast: configs/clusters/h100-8.yaml and h100-8x8.yaml.
# shellcheck shell=bash

# Names differ from site to site; what is needed: Open MPI with UCX and PMIx, parallel HDF5 of the same MPI, CUDA 12 or newer.
if command -v module >/dev/null; then
  module load openmpi hdf5-parallel cuda roundtable
fi

# UCX is the way to InfiniBand in Open MPI; without it a job silently runs over TCP where UCX is not built in.
export OMPI_MCA_pml=ucx
# The eight compute ports of a DGX H100 (ibdev2netdev shows them); the other four belong to storage.
export UCX_NET_DEVICES=mlx5_0:1,mlx5_3:1,mlx5_4:1,mlx5_5:1,mlx5_6:1,mlx5_9:1,mlx5_10:1,mlx5_11:1
# MPI moves host memory only (weights on their way to the ranks); gradients on devices are NCCL's. So UCX need not probe
# for CUDA memory at every call.
export UCX_TLS=rc,sm,self
# The coordinator is a thread that talks MPI beside rank 0's own work; HCOLL's collectives are not made for that.
export OMPI_MCA_coll_hcoll_enable=0

# Only a group that spans nodes sends gradients over InfiniBand (parallel.shards above 8): the same ports for it.
export NCCL_IB_HCA=mlx5_0,mlx5_3,mlx5_4,mlx5_5,mlx5_6,mlx5_9,mlx5_10,mlx5_11
# Bootstrapping goes over the management network; NCCL would else try every interface, docker0 among them.
export NCCL_SOCKET_IFNAME=^docker0,lo

# Shared file systems often have no working flock(); the boundaries are written by one job, which knows what it does.
export HDF5_USE_FILE_LOCKING=FALSE
