// Loading ahead, and blocks from what was read.
#include "model/load/block_loader.h"

#include <ATen/Parallel.h>
#include <omp.h>
#include <torch/types.h>

#include <utility>

#include "base/activity.h"

namespace roundtable {
namespace {

// All cores are for the thread that computes. LibTorch would give each thread that uses it a team of threads of its
// own.
void work_alone() {
  at::get_num_threads();  // makes LibTorch set up the team of this thread, which it does once
  omp_set_num_threads(1);
}

}  // namespace

std::vector<ParameterSpec> BlockLoader::parameters(std::int64_t block) const {
  std::vector<ParameterSpec> wanted = block_parameters(config_);
  for (ParameterSpec& spec : wanted) spec.name = config_.block_name(block) + "." + spec.name;
  return wanted;
}

void BlockLoader::load_ahead(std::int64_t block, int root) {
  drop();
  loaded_ = std::async(std::launch::async, [this, root, wanted = parameters(block)] {
    const WatchedThread watched(Lane::kReader);
    work_alone();
    return load_tensors(source_, wanted, comm_, root);
  });
  ahead_ = block;
}

// A block that nobody asks for any more is waited for all the same: other ranks take part in its broadcast.
void BlockLoader::drop() {
  if (std::exchange(ahead_, -1) >= 0) loaded_.wait();
}

BlockWeights BlockLoader::load(std::int64_t block, int root) {
  std::vector<torch::Tensor> tensors;
  if (ahead_ == block) {
    const WaitsForOthers waits("the next block");  // the thread that loads it is watched itself
    ahead_ = -1;
    tensors = loaded_.get();
  } else {
    drop();
    tensors = load_tensors(source_, parameters(block), comm_, root);
  }
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
    linears.push_back({specs[i].name, placed(weights.weights[i]), placed(weights.biases[i]), {}});
  }
  std::vector<torch::Tensor> norms;
  for (const torch::Tensor& norm : weights.norms) norms.push_back(placed(norm));
  return DecoderBlock(config, weights.block, std::move(linears), norms);
}

}  // namespace roundtable
