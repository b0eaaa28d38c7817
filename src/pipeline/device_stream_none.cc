// Stands in for device_stream_cuda.cc in builds without a CUDA toolkit.
#include "pipeline/device_stream.h"

namespace roundtable {

void* current_device_stream(int) { return nullptr; }

}  // namespace roundtable
