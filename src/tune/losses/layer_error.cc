// One forward pass that compares each layer with the two ways to quantize it.
#include "tune/losses/layer_error.h"

#include <torch/types.h>

#include "base/error.h"

namespace roundtable {
namespace {

double power(const torch::Tensor& y) { return y.to(torch::kFloat32).square().sum(torch::kFloat64).item<double>(); }

}  // namespace

std::vector<LayerError> layer_errors(Block& block, const std::vector<torch::Tensor>& original,
                                     const BlockSchemes& schemes, States& sample, HostCommunicator& group) {
  const std::vector<Linear>& linears = block.linears();
  RT_CHECK(original.size() == linears.size() && schemes.size() == linears.size());
  std::vector<double> sums(3 * linears.size());  // a layer's |x (N - W)^T|^2, |x (Q - W)^T|^2, |x W^T|^2
  block.set_observer([&](const Linear& linear, const torch::Tensor& x, const torch::Tensor&) {
    const auto i = static_cast<std::size_t>(&linear - linears.data());
    if (!schemes[i]) return;
    const torch::Tensor source = original[i].to(linear.weight.device());
    const torch::Tensor exact = source.to(linear.weight.scalar_type());
    const torch::Tensor nearest = dequantize(round_to_nearest(source, *schemes[i]), exact.scalar_type());
    // Differences of weights, not of outputs: those would drown in bf16's rounding.
    sums[3 * i] += power(torch::matmul(x, (nearest - exact).t()));
    sums[3 * i + 1] += power(torch::matmul(x, (linear.weight - exact).t()));
    sums[3 * i + 2] += power(torch::matmul(x, exact.t()));
  });
  sample = run_block(block, sample, 0);
  block.set_observer({});
  group.all_reduce_sum(host_span(sums));
  std::vector<LayerError> errors;
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const double whole = sums[3 * i + 2];
    if (whole > 0) errors.push_back({linears[i].name, sums[3 * i] / whole, sums[3 * i + 1] / whole});
  }
  return errors;
}

}  // namespace roundtable
