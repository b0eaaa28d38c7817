// A block of the model: the graph of its kind with this block's tensors. What tunes, calibrates and evaluates sees this
// and knows of no graph.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "graph/format/manifest.h"
#include "graph/run/program.h"
#include "model/forward/linear.h"

namespace roundtable {

// The graph of a kind on a device, with fused nodes; its blocks share it. Immutable, so thread-safe.
class BlockKind {
 public:
  // `constants` of read_constants().
  BlockKind(const GraphManifest& manifest, std::size_t kind, const TensorsByName& constants, torch::Device device);

  const Program& program() const { return program_; }
  const GraphPart& part() const { return part_; }
  const std::map<std::string, GraphTensorSpec>& boundary() const { return boundary_; }
  std::int64_t experts() const { return experts_; }  // of rt::dispatch; 0: the kind has none
  torch::Device device() const { return device_; }

 private:
  GraphPart part_;
  std::map<std::string, GraphTensorSpec> boundary_;
  Program program_;
  std::int64_t experts_ = 0;
  torch::Device device_;
};

// What a block may take beside hidden states, of the same samples: token ids, and the tensors that other blocks gave.
struct SideTensors {
  torch::Tensor tokens;   // int64 [batch, seqlen]
  TensorsByName carried;  // by their names in `boundary`
};

class Block {
 public:
  // `parameters` has each of the kind's, contiguous, in its shape and dtype, on the kind's device. Tensors are shared:
  // the weight of a linear layer is a view of its parameter where that lies row by row.
  Block(std::shared_ptr<const BlockKind> kind, const GraphBlock& entry, TensorsByName parameters);
  Block(Block&&) = default;
  Block(const Block&) = delete;  // gradients go to one layer, not to its copy

  // hidden [batch, ...boundary] -> the same. Differentiable in `hidden`, and by Linear::take_gradient in the weights.
  // The first is for blocks that take and give nothing else; the other puts what the block gives into `side`. Throws
  // Error as Program::forward() does, and where the graph's result is not what `boundary` says.
  torch::Tensor forward(const torch::Tensor& hidden) const;
  torch::Tensor forward(const torch::Tensor& hidden, SideTensors& side) const;

  // Names of the carried tensors that forward() puts into `side`.
  std::vector<std::string> gives() const;
  torch::Device device() const { return kind_->device(); }

  // Called with each layer of linears(), what enters it and what leaves it during forward(); empty for none. An
  // expert's layers see its tokens alone, and are left out where it has none.
  using Observer = std::function<void(const Linear&, const torch::Tensor& x, const torch::Tensor& y)>;
  void set_observer(Observer observer) { observer_ = std::move(observer); }

  // The layers that are quantized unless the config says otherwise, in the order in which forward() comes to them,
  // expert after expert. Weights may be replaced by others of the same shape. All stay where they are while the block
  // lives.
  std::vector<Linear>& linears() { return linears_; }
  const std::vector<Linear>& linears() const { return linears_; }

  // Tokens that each expert has worked on in forward() since the last clear; empty without experts.
  const std::vector<std::int64_t>& expert_tokens() const { return expert_tokens_; }
  void clear_expert_tokens() { expert_tokens_.assign(expert_tokens_.size(), 0); }

 private:
  class Products;

  // The layers that make up one [out, in] of a product's weight.
  struct Layers {
    std::vector<std::size_t> linears;  // see layer()
    torch::Tensor order;  // columns of their outputs, side by side, as the product has them; undefined: as is
  };

  void add_product(const Product& product, const torch::Tensor& weight, const torch::Tensor& bias);
  const Linear& layer(std::size_t place) const;
  bool is_own(const Linear& layer) const;
  torch::Tensor run(const Layers& layers, const torch::Tensor& x) const;
  void check_result(const torch::Tensor& tensor, const std::string& name, std::int64_t batch) const;

  std::shared_ptr<const BlockKind> kind_;
  std::map<std::string, std::string> takes_;
  std::map<std::string, std::string> gives_;
  TensorsByName parameters_;
  std::vector<Linear> linears_;
  std::vector<Linear> fixed_;                             // parts of the same weights that are never quantized
  std::map<const Product*, std::vector<Layers>> layers_;  // by expert
  Observer observer_;
  mutable std::vector<std::int64_t> expert_tokens_;
};

}  // namespace roundtable
