// A graph, ready to run on a device: each node through LibTorch's dispatcher, so that autograd sees it.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "graph/format/manifest.h"
#include "graph/format/products.h"
#include "graph/format/read_manifest.h"
#include "graph/run/operand.h"

namespace roundtable {

// The tensors that flow between graphs, of some samples: dimension 0 is the batch.
struct GraphTensors {
  torch::Tensor hidden;   // what leaves the head: the logits
  torch::Tensor tokens;   // int64 [batch, seqlen]
  TensorsByName carried;  // by the names that the part has for them
};

// What makes a graph's products with weights in the place of its nodes.
class ProductHooks {
 public:
  virtual ~ProductHooks() = default;
  // The product of `x` with the weight; `ends` is that of rt::expert_linear, undefined elsewhere.
  virtual torch::Tensor multiply(const Product& product, const torch::Tensor& x, const torch::Tensor& ends) = 0;
  // rt::dispatch takes what this gives in the place of `index` [N, K], the experts that each token has chosen.
  virtual torch::Tensor choices(const torch::Tensor& index, std::int64_t experts) = 0;
  // rt::dispatch gave these.
  virtual void dispatched(const torch::Tensor& ends) = 0;
  // fused::to_owners: the rows there, and their ends. `ends` are those of a dispatch.
  virtual std::pair<torch::Tensor, torch::Tensor> to_owners(const torch::Tensor& rows, const torch::Tensor& ends) = 0;
  // fused::from_owners. `ends` are those that to_owners() gave.
  virtual torch::Tensor from_owners(const torch::Tensor& rows, const torch::Tensor& ends) = 0;
};

class Program {
 public:
  // `part` is one that read_manifest() returned, or a pass of fuse/ made of it. Constants are copied to `device`.
  // With `batch` the graph takes so many samples only: forward() then runs multiples of it, part by part.
  Program(const GraphPart& part, const TensorsByName& constants, torch::Device device, std::int64_t batch = 0);
  Program(const Program&) = delete;  // steps point to products

  // Runs the graph: takes what the part takes and gives what it gives. `parameters` holds those of the part's inputs,
  // on the device. A value is freed when nothing takes it any more. Throws Error with the node's place where an
  // operator refuses its arguments (kBadInput), or where memory is short (kMachine). Thread-safe.
  GraphTensors forward(const GraphTensors& in, const TensorsByName& parameters, ProductHooks* hooks = nullptr) const;

  const std::map<std::size_t, Product>& products() const { return products_; }
  std::size_t size() const { return steps_.size(); }

 private:
  struct Step {
    enum class Kind : std::uint8_t { kOperator, kInt } kind = Kind::kOperator;
    std::size_t node = 0;  // its place in the part
    std::string op;
    std::optional<c10::OperatorHandle> handle{};
    std::vector<Operand> operands{};
    std::vector<std::int64_t> out{};  // -1: nobody takes it
    bool gives_list = false;
    bool no_grad = false;
    enum class Experts : std::uint8_t { kNo, kDispatch, kToOwners, kFromOwners } experts = Experts::kNo;
    const Product* product = nullptr;
    std::vector<std::int64_t> dead{};  // values that nothing takes after this
  };
  using Values = std::vector<c10::IValue>;

  Step make_step(const GraphNode& node, std::size_t index, std::vector<ValueType>& types) const;
  void find_last_uses();
  void run(const Step& step, Values& values, ProductHooks* hooks) const;
  void set_results(const Step& step, std::vector<c10::IValue>& stack, Values& values) const;
  GraphTensors forward_part(const GraphTensors& in, const TensorsByName& parameters, ProductHooks* hooks) const;
  Values inputs(const GraphTensors& in, const TensorsByName& parameters) const;

  GraphPart part_;
  torch::Device device_;
  std::int64_t batch_;
  TensorsByName constants_;
  std::map<std::size_t, Product> products_;
  std::vector<Step> steps_;
};

}  // namespace roundtable
