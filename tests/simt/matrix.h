// A weight matrix with everything that the kernels of fake quantization take. Every array is a block of memory of its
// exact size, so that AddressSanitizer sees what a kernel does beyond it.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "quant/fake_quant_kernels.h"

namespace roundtable {

// What the weights look like.
enum class Weights { kUsual, kWideRange, kManyZeros, kNotNegative, kNotPositive, kZero };
constexpr unsigned kKindsOfWeights = 6;

struct Shape {
  std::int64_t rows;
  std::int64_t columns;
};

struct Matrix {
  QuantScheme scheme;
  Shape shape;
  Weights kind;
  bool is_bf16;
  float bound;  // of min_scale and max_scale
  std::vector<float> weight;        // also of bf16, for which they are exact
  std::vector<std::uint16_t> bf16;  // empty for fp32
  std::vector<float> v, min_scale, max_scale, wmin, wmax;
  std::vector<float> gradient;    // of the loss by the dequantized weights; one in nine is 0
  std::vector<float> importance;  // per column

  std::size_t size() const { return weight.size(); }
  std::size_t groups() const { return wmin.size(); }
  std::string text() const;
};

// For kNvFp4 the scheme of the result has its global scale.
Matrix make_matrix(const QuantScheme& scheme, const Shape& shape, bool is_bf16, Weights kind, float bound,
                   std::mt19937& random);

// Pointers into `matrix`: to `rows` rows from the row `first` on, as an expert lies in a stack of experts.
WeightArrays arrays_of(Matrix& matrix, std::int64_t first, std::int64_t rows);
inline WeightArrays arrays_of(Matrix& matrix) { return arrays_of(matrix, 0, matrix.shape.rows); }

}  // namespace roundtable
