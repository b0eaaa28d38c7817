// A decoder block of the Llama family: Llama 2/3, Mistral, SmolLM2, and Qwen2 (the same with biases).
//
//   h = x + o_proj(attention(rope(q), rope(k), v)),  q, k, v = projections of rms_norm(x)
//   y = h + down_proj(silu(gate_proj(n)) * up_proj(n)),  n = rms_norm(h)
#pragma once

#include <torch/types.h>

#include <functional>
#include <string>
#include <vector>

#include "model/linear.h"
#include "model/model_config.h"
#include "model/rope.h"

namespace roundtable {

// Name and shape of a parameter of a block, as the checkpoint has it below the block's prefix.
struct ParameterSpec {
  std::string name;                  // "self_attn.q_proj.weight"
  std::vector<std::int64_t> shape;
};

// One linear layer of a block.
struct LinearSpec {
  std::string name;                  // "self_attn.q_proj"
  std::int64_t out = 0;
  std::int64_t in = 0;
  bool bias = false;
};

// The linear layers in the order in which data flows; then what else a block holds.
std::vector<LinearSpec> block_linears(const ModelConfig& config);
std::vector<ParameterSpec> block_norms(const ModelConfig& config);

// What a block's forward pass takes beside hidden states: the same for all blocks.
struct BlockContext {
  RopeTable rope;
};

BlockContext make_block_context(const ModelConfig& config, std::int64_t seqlen, torch::ScalarType dtype,
                                torch::Device device);

class DecoderBlock {
 public:
  // `linears` in the order of block_linears(), `norms` in that of block_norms(), all in one dtype on one device.
  DecoderBlock(const ModelConfig& config, std::vector<Linear> linears, std::vector<torch::Tensor> norms);

  // hidden [batch, seqlen, hidden] -> [batch, seqlen, hidden], in the same dtype. Differentiable.
  torch::Tensor forward(const torch::Tensor& hidden, const BlockContext& context) const;

  // Called with each linear layer and its output during forward(); empty for none.
  using Observer = std::function<void(const Linear&, const torch::Tensor&)>;
  void set_observer(Observer observer) { observer_ = std::move(observer); }

  std::vector<Linear>& linears() { return linears_; }
  const std::vector<Linear>& linears() const { return linears_; }

 private:
  torch::Tensor run_linear(std::size_t index, const torch::Tensor& x) const;
  torch::Tensor attention(const torch::Tensor& x, const BlockContext& context) const;
  torch::Tensor mlp(const torch::Tensor& x) const;

  ModelConfig config_;
  std::vector<Linear> linears_;
  std::vector<torch::Tensor> norms_;
  Observer observer_;
};

}  // namespace roundtable
