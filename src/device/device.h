// The CUDA devices that LibTorch finds, and the streams that it works on.
#pragma once

#include <c10/core/Device.h>

#include <optional>
#include <string>

#include "device/stream.h"

namespace roundtable {

// The CUDA device of a rank, by its number among the ranks of its node: device 0, 1, ... and again from 0 if there are
// more ranks than devices. Empty if LibTorch finds no device: none is there, or this is a build without CUDA.
std::optional<c10::Device> cuda_device_of(int rank_in_node);

// Why there is none, in one line: LibTorch's own words where it has any.
std::string why_no_cuda_device();

// The stream on which LibTorch enqueues the calling thread's work on `device`, which is a CUDA device. A build without
// CUDA has no such device; it answers with the default stream.
Stream current_stream(const c10::Device& device);

}  // namespace roundtable
