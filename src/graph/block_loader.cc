// Loading ahead, and blocks from what was read.
#include "graph/block_loader.h"

#include <ATen/Parallel.h>
#include <omp.h>
#include <torch/types.h>

#include <utility>

#include "base/activity.h"
#include "model/load/stacked_rows.h"

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
  std::vector<ParameterSpec> wanted;
  for (const PlacedTensor& placed : model_.table(block).placed) {
    wanted.push_back(placed.spec.below(model_.block_prefix(block)));
  }
  return wanted;
}

std::vector<torch::Tensor> BlockLoader::load_stacked(const std::vector<ParameterSpec>& wanted, int root) const {
  std::vector<torch::Tensor> tensors = load_tensors(source_, wanted, comm_, root);
  stack_neighbours(tensors);
  return tensors;
}

void BlockLoader::load_ahead(std::int64_t block, int root) {
  drop();
  loaded_ = std::async(std::launch::async, [this, root, wanted = parameters(block)] {
    const WatchedThread watched(Lane::kReader);
    work_alone();
    return load_stacked(wanted, root);
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
    tensors = load_stacked(parameters(block), root);
  }
  BlockWeights weights;
  weights.block = block;
  const auto others = tensors.begin() + std::ssize(model_.linears(block));
  weights.weights.assign(tensors.begin(), others);
  weights.others.assign(others, tensors.end());
  return weights;
}

TensorsByName make_parameters(const GraphPart& part, const std::vector<PlacedTensor>& placed,
                              const std::vector<torch::Tensor>& tensors, torch::Device device) {
  TensorsByName parameters;
  for (const auto& [name, spec] : part.parameters) {
    parameters[name] = torch::empty(spec.shape, torch::TensorOptions().dtype(spec.dtype).device(device));
  }
  for (std::size_t i = 0; i < placed.size(); ++i) {
    const PlacedTensor& place = placed[i];
    parameters.at(place.param).as_strided(place.spec.shape, place.stride, place.offset).copy_(tensors[i]);
  }
  return parameters;
}

Block BlockMaker::make(const BlockWeights& weights) {
  const std::size_t kind = model_.kind_of(weights.block);
  auto& made = kinds_[kind];
  if (!made) made = std::make_shared<BlockKind>(model_.graphs(), kind, model_.constants(), device_);
  std::vector<torch::Tensor> tensors = weights.weights;
  tensors.insert(tensors.end(), weights.others.begin(), weights.others.end());
  return Block(made, model_.entry(weights.block),
               make_parameters(made->part(), model_.table(weights.block).placed, tensors, device_));
}

}  // namespace roundtable
