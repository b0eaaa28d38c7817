// Reading ahead, and blocks from what was read.
#include "model/block_loader.h"

#include <ATen/Parallel.h>
#include <omp.h>
#include <torch/types.h>

#include <utility>

namespace roundtable {
namespace {

// The cores are the computing thread's: LibTorch would give each thread that uses it a team of its own.
void work_alone() {
  at::get_num_threads();  // LibTorch sets a new thread's team up, once
  omp_set_num_threads(1);
}

}  // namespace

std::vector<ParameterSpec> BlockLoader::parameters(std::int64_t block) const {
  std::vector<ParameterSpec> wanted = block_parameters(config_);
  for (ParameterSpec& spec : wanted) spec.name = config_.block_name(block) + "." + spec.name;
  return wanted;
}

void BlockLoader::read_ahead(std::int64_t block, int root) {
  if (comm_.rank() != root) return;
  read_ = std::async(std::launch::async, [this, wanted = parameters(block)] {
    work_alone();
    return read_tensors(source_, wanted);
  });
  ahead_ = block;
}

BlockWeights BlockLoader::load(std::int64_t block, int root) {
  const std::vector<ParameterSpec> wanted = parameters(block);
  const bool have_it = std::exchange(ahead_, -1) == block;
  const std::vector<torch::Tensor> tensors =
      share_tensors([&] { return have_it ? read_.get() : read_tensors(source_, wanted); }, wanted, comm_, root);
  BlockWeights weights;
  weights.block = block;
  auto next = tensors.begin();
  const std::vector<LinearSpec> linears = block_linears(config_);
  for (std::size_t i = 0; i < linears.size(); ++i) weights.weights.push_back(*next++);
  for (const LinearSpec& linear : linears) weights.biases.push_back(linear.bias ? *next++ : torch::Tensor());
  weights.norms.assign(next, tensors.end());
  return weights;
}

DecoderBlock make_block(const ModelConfig& config, const BlockWeights& weights, torch::ScalarType dtype,
                        torch::Device device) {
  const auto placed = [&](const torch::Tensor& tensor) {
    return tensor.defined() ? tensor.to(device, dtype) : torch::Tensor();
  };
  std::vector<Linear> linears;
  const std::vector<LinearSpec> specs = block_linears(config);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    linears.push_back({specs[i].name, placed(weights.weights[i]), placed(weights.biases[i]), {}, {}});
  }
  std::vector<torch::Tensor> norms;
  for (const torch::Tensor& norm : weights.norms) norms.push_back(placed(norm));
  return DecoderBlock(config, weights.block, std::move(linears), norms);
}

}  // namespace roundtable
