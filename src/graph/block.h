// A block of the model: the graph of its kind with this block's tensors. What tunes, calibrates and evaluates sees this
// and knows of no graph.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "graph/experts/exchange.h"
#include "graph/format/manifest.h"
#include "graph/run/program.h"
#include "model/forward/linear.h"

namespace roundtable {

// The graph of a kind on a device, with fused nodes; its blocks share it. Immutable, so thread-safe.
class BlockKind {
 public:
  // `constants` of read_constants(). `exchange`: the ranks of a group divide the experts of its blocks; null: they do
  // not, or the kind has none.
  BlockKind(const GraphManifest& manifest, std::size_t kind, const TensorsByName& constants, torch::Device device,
            std::shared_ptr<ExpertExchange> exchange = nullptr);

  const Program& program() const { return program_; }
  const GraphPart& part() const { return part_; }
  const std::map<std::string, GraphTensorSpec>& boundary() const { return boundary_; }
  std::int64_t experts() const { return experts_; }  // of rt::dispatch; 0: the kind has none
  // The parameters that are weights of linear layers alone: nothing but these layers takes them.
  const std::set<std::string>& made_of_layers() const { return made_of_layers_; }
  const std::vector<c10::ScalarType>& dtypes_of_layers() const { return dtypes_of_layers_; }  // as Block::linears()
  torch::Device device() const { return device_; }
  ExpertExchange* exchange() const { return exchange_.get(); }

 private:
  std::shared_ptr<ExpertExchange> exchange_;
  GraphPart part_;
  std::map<std::string, GraphTensorSpec> boundary_;
  Program program_;
  std::int64_t experts_ = 0;
  std::set<std::string> made_of_layers_;
  std::vector<c10::ScalarType> dtypes_of_layers_;
  torch::Device device_;
};

// What a block may take beside hidden states, of the same samples: token ids, and the tensors that other blocks gave.
struct SideTensors {
  torch::Tensor tokens;   // int64 [batch, seqlen]
  TensorsByName carried;  // by their names in `boundary`
};

class Block {
 public:
  // `parameters` has each of the kind's except for made_of_layers(), contiguous, in its shape and dtype, on the kind's
  // device; these tensors are shared. `weights` are those of linears(), [out, in] each, of any dtype, anywhere: they
  // are copied. A layer whose weight is undefined has none, and forward() must not come to it.
  Block(std::shared_ptr<const BlockKind> kind, const GraphBlock& entry, TensorsByName parameters,
        const std::vector<torch::Tensor>& weights);
  Block(Block&&) = default;
  Block(const Block&) = delete;  // gradients go to one layer, not to its copy

  // hidden [batch, ...boundary] -> the same. Collective over the group if its ranks divide the experts: forward passes,
  // and their backward passes, are as many on each of them. Differentiable in `hidden`, and by Linear::take_gradient in the weights.
  // The first is for blocks that take and give nothing else; the other puts what the block gives into `side`. Throws
  // Error as Program::forward() does, and where the graph's result is not what `boundary` says.
  torch::Tensor forward(const torch::Tensor& hidden) const;
  torch::Tensor forward(const torch::Tensor& hidden, SideTensors& side) const;

  // Takes part in a forward pass of the other ranks of the group, which have samples where this one has none: their
  // tokens may need the experts that it holds. `hidden` and `side` are of any sample, and nothing of that is sent,
  // counted or observed. The backward pass starts from zeros.
  torch::Tensor forward_idle(const torch::Tensor& hidden, SideTensors& side) const;
  // The ranks that divide the experts, each of which must take part in the passes of the others; null: none do.
  const ExpertExchange* exchange() const { return kind_->exchange(); }

  // Names of the carried tensors that forward() puts into `side`.
  std::vector<std::string> gives() const;
  torch::Device device() const { return kind_->device(); }

  // Called with each layer of linears(), what enters it and what leaves it during forward(); empty for none. An
  // expert's layers see its tokens alone, and are left out where it has none.
  using Observer = std::function<void(const Linear&, const torch::Tensor& x, const torch::Tensor& y)>;
  void set_observer(Observer observer) { observer_ = std::move(observer); }

  // Changes the experts that tokens have chosen, [tokens, choices], on their way into each dispatch of forward();
  // empty for none. A choice that is no expert's number is nobody's.
  using Chooser = std::function<torch::Tensor(const torch::Tensor& index, std::int64_t experts)>;
  void set_chooser(Chooser chooser) { chooser_ = std::move(chooser); }

  // The layers that are quantized unless the config says otherwise, in the order in which forward() comes to them,
  // expert after expert. Weights may be replaced by others of the same shape. All stay where they are while the block
  // lives. Where ranks divide the experts, the weights of layers that another rank holds are undefined.
  std::vector<Linear>& linears() { return linears_; }
  const std::vector<Linear>& linears() const { return linears_; }

  // Of this rank's tokens in forward() since the last clear: those that each expert has worked on, whichever rank holds
  // it. Empty without experts.
  const std::vector<std::int64_t>& expert_tokens() const { return expert_tokens_; }
  void clear_expert_tokens() { expert_tokens_.assign(expert_tokens_.size(), 0); }

 private:
  class Products;

  // The layers that make up one [out, in] of a product's weight.
  struct Layers {
    std::vector<std::size_t> linears;  // see layer()
    torch::Tensor order;  // columns of their outputs, side by side, as the product has them; undefined: as is
  };

  void add_product(const Product& product, const std::vector<torch::Tensor>& weights);
  torch::Tensor weight_of(const Product& product, const MatrixPlace& matrix, const torch::Tensor& own) const;
  const Linear& layer(std::size_t place) const;
  bool is_own(const Linear& layer) const;
  torch::Tensor run(const Layers& layers, const torch::Tensor& x, bool observed) const;
  torch::Tensor run_graph(const torch::Tensor& hidden, SideTensors& side, bool idle) const;
  void check_result(const torch::Tensor& tensor, const std::string& name, std::int64_t batch) const;

  std::shared_ptr<const BlockKind> kind_;
  std::map<std::string, std::string> takes_;
  std::map<std::string, std::string> gives_;
  TensorsByName parameters_;
  std::vector<Linear> linears_;
  std::vector<Linear> fixed_;                             // parts of the same weights that are never quantized
  std::map<const Product*, std::vector<Layers>> layers_;  // by expert
  Observer observer_;
  Chooser chooser_;
  mutable std::vector<std::int64_t> expert_tokens_;
};

}  // namespace roundtable
