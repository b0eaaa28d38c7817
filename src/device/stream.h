// A stream of a CUDA device as a type, without CUDA's headers and without LibTorch: comm/ enqueues its work on one.
#pragma once

struct CUstream_st;  // CUDA's own name for what a cudaStream_t points to

namespace roundtable {

// A queue of a device's work: kernels and copies run in the order in which they were enqueued; the host does not wait
// for them. LibTorch owns it; a copy of this names the same stream.
class Stream {
 public:
  Stream(int device, CUstream_st* handle) : device_(device), handle_(handle) {}

  int device() const { return device_; }
  CUstream_st* handle() const { return handle_; }  // a cudaStream_t; null: the device's default stream

 private:
  int device_;
  CUstream_st* handle_;
};

}  // namespace roundtable
