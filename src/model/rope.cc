// Inverse frequencies of the RoPE variants, and the rotation.
#include "model/rope.h"

#include <torch/torch.h>

#include <cmath>
#include <numbers>
#include <vector>

namespace roundtable {
namespace {

// transformers 5.23, _compute_llama3_parameters: long wavelengths are divided by `factor`, short ones kept, those in
// between interpolated.
double llama3_frequency(double frequency, const RopeConfig& config) {
  const double length = static_cast<double>(config.original_max_position_embeddings);
  const double wavelength = 2 * std::numbers::pi / frequency;
  if (wavelength > length / config.low_freq_factor) return frequency / config.factor;
  if (wavelength < length / config.high_freq_factor) return frequency;
  const double smooth =
      (length / wavelength - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor);
  return (1 - smooth) * frequency / config.factor + smooth * frequency;
}

std::vector<float> inverse_frequencies(const RopeConfig& config, std::int64_t head_dim) {
  std::vector<float> frequencies;
  for (std::int64_t i = 0; i < head_dim; i += 2) {
    double frequency = 1.0 / std::pow(config.theta, static_cast<double>(i) / static_cast<double>(head_dim));
    if (config.type == "linear") frequency /= config.factor;
    if (config.type == "llama3") frequency = llama3_frequency(frequency, config);
    frequencies.push_back(static_cast<float>(frequency));
  }
  return frequencies;
}

}  // namespace

RopeTable make_rope_table(const RopeConfig& config, std::int64_t head_dim, std::int64_t seqlen,
                          torch::ScalarType dtype, torch::Device device) {
  const torch::Tensor frequencies = torch::tensor(inverse_frequencies(config, head_dim));    // [head_dim / 2]
  const torch::Tensor positions = torch::arange(seqlen, torch::kFloat32);                     // [seqlen]
  const torch::Tensor half = positions.unsqueeze(1) * frequencies.unsqueeze(0);
  const torch::Tensor angles = torch::cat({half, half}, 1);                                   // [seqlen, head_dim]
  return {angles.cos().to(device, dtype), angles.sin().to(device, dtype)};
}

torch::Tensor apply_rope(const torch::Tensor& x, const RopeTable& table) {
  const auto halves = x.chunk(2, -1);
  const torch::Tensor rotated = torch::cat({halves[1].neg(), halves[0]}, -1);
  return x * table.cos.unsqueeze(1) + rotated * table.sin.unsqueeze(1);
}

}  // namespace roundtable
