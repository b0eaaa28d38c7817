// The kernels behind fake_quant.h, once for the CPU (fake_quant_cpu.cc) and once for CUDA (fake_quant_cuda.cu). No
// tensors here: nvcc would read their headers for each GPU.
#pragma once

#include <cstdint>
#include <type_traits>

#include "quant/scheme.h"
#include "quant/step_size.h"

namespace roundtable {

// Raw arrays of one weight matrix; all row-major and contiguous.
struct WeightArrays {
  const void* weight;     // [rows, columns], bf16 or fp32
  bool weight_is_bf16;
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t groups;    // per row
  float* v;               // [rows, columns]
  float* min_scale;       // [rows, groups]
  float* max_scale;
  float* wmin;
  float* wmax;
};

// Where rounding_gradients leaves its results; sign_step needs none.
struct GradientArrays {
  float* v;
  float* min_scale;
  float* max_scale;
};

// Where quantize leaves its results.
struct QuantizedArrays {
  std::uint8_t* q;
  float* scale;
  std::uint8_t* zero_point;
};

// Calls body with scheme.type as a type, to pick a template.
template <class Body>
void with_type(const QuantScheme& scheme, const Body& body) {
  switch (scheme.type) {
    case WeightType::kInt: return body(std::integral_constant<WeightType, WeightType::kInt>());
    case WeightType::kMxFp4: return body(std::integral_constant<WeightType, WeightType::kMxFp4>());
    case WeightType::kNvFp4: return body(std::integral_constant<WeightType, WeightType::kNvFp4>());
  }
}

#define ROUNDTABLE_DECLARE_KERNELS                                                                              \
  void search_scales(const WeightArrays& arrays, const QuantScheme& scheme, const float* importance);           \
  void fake_quantize(const WeightArrays& arrays, const QuantScheme& scheme, void* result, bool result_is_bf16); \
  void sign_step(const WeightArrays& arrays, const QuantScheme& scheme, const float* gradient,                  \
                 const StepSize& size);                                                                         \
  void rounding_gradients(const WeightArrays& arrays, const QuantScheme& scheme, const float* gradient,         \
                          const GradientArrays& out);                                                           \
  /* `wanted` is read where the weight is; null: true */                                                         \
  void quantize(const WeightArrays& arrays, const QuantScheme& scheme, const bool* wanted,                      \
                const QuantizedArrays& out);

namespace cpu {
ROUNDTABLE_DECLARE_KERNELS
}
namespace cuda {
ROUNDTABLE_DECLARE_KERNELS
}
#undef ROUNDTABLE_DECLARE_KERNELS

}  // namespace roundtable
