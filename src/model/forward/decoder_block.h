// A decoder block, whatever its family: what ModelConfig describes, and nothing else.
//
//   attention(x) = o(softmax(scale * rope(norm(q)) rope(norm(k))^T) v),  q, k, v = projections of x, one layer or three
//   mlp(x)       = down(act(gate(x)) * up(x)), without gate down(act(up(x))), or the same summed over a token's experts
//
// Residual sums and norms around the two: see Residual in model_config.h.
#pragma once

#include <torch/types.h>

#include <functional>
#include <string>
#include <vector>

#include "model/description/block_layout.h"
#include "model/forward/linear.h"
#include "model/description/model_config.h"
#include "model/forward/norm.h"
#include "model/forward/rope.h"

namespace roundtable {

// What attention takes beside hidden states.
struct AttentionContext {
  RopeTable rope;           // undefined tables: positions are not rotated
  std::int64_t window = 0;  // position i sees i - window < j <= i; 0: all j <= i
};

// The same for all blocks; a block picks by whether it slides.
struct BlockContext {
  AttentionContext full;
  AttentionContext sliding;
};

BlockContext make_block_context(const ModelConfig& config, std::int64_t seqlen, torch::ScalarType dtype,
                                torch::Device device);

class DecoderBlock {
 public:
  // `linears` in the order of block_linears(), `norms` in that of block_norms(), all in one dtype on one device.
  // `index` is the block's place in the model.
  DecoderBlock(const ModelConfig& config, std::int64_t index, std::vector<Linear> linears,
               const std::vector<torch::Tensor>& norms);

  // hidden [batch, seqlen, hidden] -> [batch, seqlen, hidden], in the same dtype. Differentiable.
  torch::Tensor forward(const torch::Tensor& hidden, const BlockContext& context) const;

  // Called with each linear layer, what enters it and what leaves it during forward(); empty for none.
  using Observer = std::function<void(const Linear&, const torch::Tensor& x, const torch::Tensor& y)>;
  void set_observer(Observer observer) { observer_ = std::move(observer); }

  std::vector<Linear>& linears() { return linears_; }
  const std::vector<Linear>& linears() const { return linears_; }

  // Tokens that each expert has worked on in forward() since the last clear; empty without experts.
  const std::vector<std::int64_t>& expert_tokens() const { return expert_tokens_; }
  void clear_expert_tokens() { expert_tokens_.assign(expert_tokens_.size(), 0); }

 private:
  struct Heads {
    torch::Tensor q;  // [batch, seqlen, heads, head_dim]
    torch::Tensor k;  // [batch, seqlen, kv_heads, head_dim]
    torch::Tensor v;
  };
  torch::Tensor run_linear(std::size_t index, const torch::Tensor& x) const;
  Heads project(const torch::Tensor& x) const;
  torch::Tensor attention(const torch::Tensor& x, const AttentionContext& context) const;
  torch::Tensor dense_mlp(const torch::Tensor& x, std::size_t first) const;
  torch::Tensor mixture(const torch::Tensor& x) const;
  torch::Tensor mlp(const torch::Tensor& x) const;

  ModelConfig config_;
  std::int64_t index_ = 0;
  std::vector<Linear> linears_;
  std::size_t first_mlp_ = 0;   // place of the first MLP layer in linears_
  std::size_t an_mlp_ = 0;      // layers an MLP or expert
  Norm attention_norm_;
  Norm attention_out_norm_;
  Norm mlp_norm_;
  Norm mlp_out_norm_;
  Norm q_norm_;
  Norm k_norm_;
  torch::Tensor router_;        // [experts, hidden]
  Observer observer_;
  mutable std::vector<std::int64_t> expert_tokens_;
};

// Runs `block` over [n, seqlen, hidden], `micro_batch` samples at a time (0: 8), without gradients. The result is
// where `hidden` is, on the block's device or on the host.
torch::Tensor run_block(const DecoderBlock& block, const torch::Tensor& hidden, const BlockContext& context,
                        std::int64_t micro_batch);

}  // namespace roundtable
