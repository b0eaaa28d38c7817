// CUDA's runtime: what LibTorch's library for CUDA asks for by name and Roundtable never uses.
#include <cuda_runtime_api.h>

#define ABSENT(call, ...) \
  extern "C" cudaError_t call(__VA_ARGS__) { return cudaErrorNotSupported; }

ABSENT(cudaDeviceEnablePeerAccess, int, unsigned)
ABSENT(cudaDeviceGetDefaultMemPool, cudaMemPool_t*, int)
ABSENT(cudaGetDriverEntryPointByVersion, const char*, void**, unsigned, unsigned long long,
       cudaDriverEntryPointQueryResult*)
ABSENT(cudaGraphNodeGetDependencies, cudaGraphNode_t, cudaGraphNode_t*, cudaGraphEdgeData*, size_t*)
ABSENT(cudaIpcCloseMemHandle, void*)
ABSENT(cudaIpcGetMemHandle, cudaIpcMemHandle_t*, void*)
ABSENT(cudaIpcOpenMemHandle, void**, cudaIpcMemHandle_t, unsigned)
ABSENT(cudaMemPoolGetAttribute, cudaMemPool_t, cudaMemPoolAttr, void*)
ABSENT(cudaMemPoolSetAccess, cudaMemPool_t, const cudaMemAccessDesc*, size_t)
ABSENT(cudaMemPoolSetAttribute, cudaMemPool_t, cudaMemPoolAttr, void*)
ABSENT(cudaMemPoolTrimTo, cudaMemPool_t, size_t)
ABSENT(cudaStreamGetCaptureInfo, cudaStream_t, cudaStreamCaptureStatus*, unsigned long long*, cudaGraph_t*,
       const cudaGraphNode_t**, const cudaGraphEdgeData**, size_t*)

extern "C" cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
