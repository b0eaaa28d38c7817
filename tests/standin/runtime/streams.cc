// CUDA's runtime: streams and events.
#include "tests/standin/device/checks.h"
#include "tests/standin/runtime/state.h"

using namespace roundtable::standin;

namespace roundtable::standin {

Stream& stream_of(const Lock& lock, cudaStream_t handle) {
  return handle == nullptr ? *default_stream(lock, current_device()) : *reinterpret_cast<Stream*>(handle);
}

cudaStream_t handle_of(Stream* stream) { return reinterpret_cast<cudaStream_t>(stream); }

}  // namespace roundtable::standin

namespace {

Event& event_of(cudaEvent_t handle) { return *reinterpret_cast<Event*>(handle); }

}  // namespace

extern "C" {

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  note_context(current_device(), "cudaDeviceGetStreamPriorityRange");
  *least = 0;
  *greatest = -5;
  return answer(cudaSuccess);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* handle, unsigned, int) {
  note_context(current_device(), "cudaStreamCreate");
  *handle = handle_of(make_stream(lock_streams(), current_device()));
  return answer(cudaSuccess);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* handle, unsigned flags) {
  return cudaStreamCreateWithPriority(handle, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t* handle) { return cudaStreamCreateWithPriority(handle, 0, 0); }

// What the stream still has to do is done, as with CUDA; the object stays, for events that were recorded in it.
cudaError_t cudaStreamDestroy(cudaStream_t) { return answer(cudaSuccess); }

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  Lock lock = lock_streams();
  Stream& stream = stream_of(lock, handle);
  wait_for(lock, stream, stream.started);
  return answer(cudaSuccess);
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  Lock lock = lock_streams();
  Stream& stream = stream_of(lock, handle);
  Event now;
  now.device = stream.device;
  record(lock, now, stream);
  return answer(reached(lock, now) ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return answer(cudaSuccess);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* handle, unsigned) {
  note_context(current_device(), "cudaEventCreate");
  auto* made = new Event;
  made->device = current_device();
  *handle = reinterpret_cast<cudaEvent_t>(made);
  return answer(cudaSuccess);
}
cudaError_t cudaEventCreate(cudaEvent_t* handle) { return cudaEventCreateWithFlags(handle, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  const Lock lock = lock_streams();
  delete &event_of(handle);
  return answer(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
  const Lock lock = lock_streams();
  record(lock, event_of(handle), stream_of(lock, stream));
  return answer(cudaSuccess);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t handle, unsigned) {
  Lock lock = lock_streams();
  hold_back(lock, stream_of(lock, stream), event_of(handle));
  return answer(cudaSuccess);
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  Lock lock = lock_streams();
  return answer(reached(lock, event_of(handle)) ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  Lock lock = lock_streams();
  wait_for(lock, event_of(handle));
  return answer(cudaSuccess);
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) {
  *ms = 0;
  return answer(cudaSuccess);
}

}  // extern "C"
