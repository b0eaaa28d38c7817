"""Peaks of GPUs by their data sheets: bytes per second of memory, dense bf16 products and fp32 operations per second.

Sources: NVIDIA's data sheets "H100 Tensor Core GPU" (SXM, PCIe, NVL), "H200 Tensor Core GPU", "A100 Tensor Core GPU".
Those of H100 and H200 give bf16 with sparsity; dense is half of it.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Peak:
    memory: float        # bytes per second
    matrix: float        # bf16 operations per second, dense
    fp32: float = None   # operations per second; a fused multiply-add is two
    fp32_lanes: int = 128  # per clock and multiprocessor (CUDA C++ Programming Guide, 8.0 and 9.0)


# By the name that a device gives itself (torch.cuda.get_device_name). A slice of a GPU (MIG) has another name, and none
# of these peaks.
PEAKS = {
    "NVIDIA H100 80GB HBM3": Peak(3.35e12, 989e12, 67e12),
    "NVIDIA H100 PCIe": Peak(2.0e12, 756e12, 51e12),
    "NVIDIA H100 NVL": Peak(3.9e12, 835e12, 60e12),
    "NVIDIA H200": Peak(4.8e12, 989e12, 67e12),
    "NVIDIA H200 NVL": Peak(4.8e12, 835e12, 60e12),
    "NVIDIA A100-SXM4-40GB": Peak(1.555e12, 312e12, 19.5e12, 64),
    "NVIDIA A100-SXM4-80GB": Peak(2.039e12, 312e12, 19.5e12, 64),
    "NVIDIA A100-PCIE-40GB": Peak(1.555e12, 312e12, 19.5e12, 64),
    "NVIDIA A100 80GB PCIe": Peak(1.935e12, 312e12, 19.5e12, 64),
}
H100, A100 = PEAKS["NVIDIA H100 80GB HBM3"], PEAKS["NVIDIA A100-SXM4-80GB"]


def peak_of(name, memory_gb_per_s=None, matrix_tflops=None):
    """The peak of the device `name`; figures of the user override those of the table. None for what is not known."""
    known = PEAKS.get(name)
    memory = memory_gb_per_s * 1e9 if memory_gb_per_s else known and known.memory
    matrix = matrix_tflops * 1e12 if matrix_tflops else known and known.matrix
    return Peak(memory, matrix)


def share(rate, peak):
    """rate / peak, or None if the peak is not known."""
    return rate / peak if peak else None


def percent(part):
    return "?" if part is None else f"{100 * part:.0f} %"
