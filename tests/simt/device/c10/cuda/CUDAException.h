// In the place of LibTorch's own header.
#pragma once

#include <c10/util/Exception.h>

#define C10_CUDA_CHECK(call) TORCH_CHECK((call) == cudaSuccess, "a call to CUDA has failed")
