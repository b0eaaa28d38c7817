// Stands in for cuda/stream_cuda.cc in builds without a CUDA toolkit.
#include "device/stream.h"

namespace roundtable {

void* current_device_stream(int) { return nullptr; }

}  // namespace roundtable
