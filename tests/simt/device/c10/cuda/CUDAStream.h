// In the place of LibTorch's own header: there is one stream, on which everything is complete at once.
#pragma once

namespace c10::cuda {

struct CUDAStream {
  void* stream() const { return nullptr; }
};

inline CUDAStream getCurrentCUDAStream() { return {}; }

}  // namespace c10::cuda
