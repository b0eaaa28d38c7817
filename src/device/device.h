// The CUDA devices that LibTorch finds, and the streams that it works on.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <string>

#include "device/stream.h"

namespace roundtable {

// The CUDA device of a rank, by its number among the ranks of its node: device 0, 1, ... and again from 0 if there are
// more ranks than devices. Empty if LibTorch finds no device: none is there, or this is a build without CUDA.
std::optional<c10::Device> cuda_device_of(int rank_in_node);

// Why there is none, in one line: LibTorch's own words where it has any.
std::string why_no_cuda_device();

struct DeviceIdentity {
  std::string name;  // "NVIDIA H100 80GB HBM3"
  std::string uuid;  // as `nvidia-smi -L` has it; parts of one device (MIG) have their own
};

// Of a CUDA device. Makes no context on it. A build without CUDA has no such device.
DeviceIdentity identity_of(const c10::Device& device);

// Makes a CUDA device the calling thread's own; a CPU needs nothing. Whatever asks CUDA for anything before makes a
// context on device 0, which takes about 0.5 GB there, and fails where devices allow only one process.
void use_device(const c10::Device& device);

// Asks LibTorch for operators on CUDA devices that give the same bits each time, from now on in all threads; to be called
// before the first product. An operator that has no such way throws an exception, see faults.h.
void ask_for_determinism();

// The most memory that LibTorch has reserved on a device since the last reset, in bytes; 0 for a CPU.
std::int64_t peak_device_bytes(const c10::Device& device);
void reset_peak_device_bytes(const c10::Device& device);

// The stream on which LibTorch enqueues the calling thread's work on `device`, which is a CUDA device. A build without
// CUDA has no such device; it answers with the default stream.
Stream current_stream(const c10::Device& device);

}  // namespace roundtable
