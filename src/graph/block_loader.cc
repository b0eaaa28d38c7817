// Loading ahead, and blocks from what was read.
#include "graph/block_loader.h"

#include <ATen/Parallel.h>
#include <omp.h>
#include <torch/types.h>

#include <algorithm>
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

// So many tensors are read before they go to their places: memory holds no more of a block twice.
constexpr std::size_t kAtOnce = 16;

// Rows of the layer at places[first] and of those that follow it and have as many columns.
std::int64_t rows_of_neighbours(const KindTable& table, const std::vector<std::size_t>& places, std::size_t first) {
  const std::int64_t columns = table.linears[places[first]].in;
  std::int64_t rows = 0;
  for (std::size_t i = first; i < places.size() && places[i] < table.linears.size(); ++i) {
    if (table.linears[places[i]].in != columns) break;
    rows += table.linears[places[i]].out;
  }
  return rows;
}

}  // namespace

// What all ranks have and what a rank's own experts have is read apart, and put back into the order of the table.
BlockWeights BlockLoader::read(std::int64_t block, int root) const {
  const KindTable& table = model_.table(block);
  const std::size_t linears = table.linears.size();
  std::vector<std::size_t> common, own;
  for (std::size_t i = 0; i < table.placed.size(); ++i) {
    const bool divided = i < linears && table.linears[i].expert >= 0 && part_.divides();
    if (divided && !part_.holds(table.linears[i].expert, table.experts)) continue;
    (divided ? own : common).push_back(i);
  }
  std::vector<torch::Tensor> tensors(table.placed.size());
  const auto load_into_places = [&](const std::vector<std::size_t>& places, const auto& load) {
    StackBuilder stack;
    for (std::size_t first = 0; first < places.size(); first += kAtOnce) {
      const std::size_t last = std::min(places.size(), first + kAtOnce);
      std::vector<ParameterSpec> wanted;
      for (std::size_t i = first; i < last; ++i) {
        wanted.push_back(table.placed[places[i]].spec.below(model_.block_prefix(block)));
      }
      std::vector<torch::Tensor> loaded = load(wanted);
      for (std::size_t i = first; i < last; ++i) {
        torch::Tensor tensor = std::move(loaded[i - first]);
        tensors[places[i]] = places[i] < linears ? stack.add(tensor, rows_of_neighbours(table, places, i)) : tensor;
      }
    }
  };
  load_into_places(common, [&](const auto& wanted) { return load_tensors(source_, wanted, comm_, root); });
  load_into_places(own, [&](const auto& wanted) {
    return load_tensors_apart(source_, wanted, *holders_, root / part_.parts, comm_);
  });
  BlockWeights weights;
  weights.block = block;
  const auto others = tensors.begin() + static_cast<std::ptrdiff_t>(linears);
  weights.weights.assign(tensors.begin(), others);
  weights.others.assign(others, tensors.end());
  return weights;
}

void BlockLoader::load_ahead(std::int64_t block, int root) {
  drop();
  loaded_ = std::async(std::launch::async, [this, block, root] {
    const WatchedThread watched(Lane::kReader);
    work_alone();
    return read(block, root);
  });
  ahead_ = block;
}

// A block that nobody asks for any more is waited for all the same: other ranks take part in its broadcast.
void BlockLoader::drop() {
  if (std::exchange(ahead_, -1) >= 0) loaded_.wait();
}

BlockWeights BlockLoader::load(std::int64_t block, int root) {
  if (ahead_ != block) {
    drop();
    return read(block, root);
  }
  const WaitsForOthers waits("the next block");  // the thread that loads it is watched itself
  ahead_ = -1;
  return loaded_.get();
}

TensorsByName make_parameters(const GraphPart& part, const std::vector<PlacedTensor>& placed,
                              const std::vector<torch::Tensor>& tensors, torch::Device device,
                              const std::set<std::string>& without) {
  TensorsByName parameters;
  for (const auto& [name, spec] : part.parameters) {
    if (without.contains(name)) continue;
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
  if (!made) {
    made = std::make_shared<BlockKind>(model_.graphs(), kind, model_.constants(), device_,
                                       model_.kind(kind).experts > 0 ? exchange_ : nullptr);
  }
  const KindTable& table = model_.table(weights.block);
  const std::vector<PlacedTensor> others(table.placed.begin() + std::ssize(table.linears), table.placed.end());
  return Block(made, model_.entry(weights.block),
               make_parameters(made->part(), others, weights.others, device_, made->made_of_layers()),
               weights.weights);
}

}  // namespace roundtable
