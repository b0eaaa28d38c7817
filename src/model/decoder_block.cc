// Forward pass of the Llama family's block, through LibTorch.
#include "model/decoder_block.h"

#include <torch/torch.h>

#include <cmath>

#include "base/error.h"
#include "model/attention.h"
#include "model/rms_norm.h"
#include "model/swiglu.h"

namespace roundtable {
namespace {

// Places in block_linears().
enum LinearIndex { kQ, kK, kV, kO, kGate, kUp, kDown };

}  // namespace

std::vector<LinearSpec> block_linears(const ModelConfig& c) {
  const std::int64_t q = c.n_heads * c.head_dim;
  const std::int64_t kv = c.n_kv_heads * c.head_dim;
  return {{"self_attn.q_proj", q, c.hidden_size, c.attention_bias},
          {"self_attn.k_proj", kv, c.hidden_size, c.attention_bias},
          {"self_attn.v_proj", kv, c.hidden_size, c.attention_bias},
          {"self_attn.o_proj", c.hidden_size, q, c.attention_out_bias},
          {"mlp.gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias},
          {"mlp.up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias},
          {"mlp.down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias}};
}

std::vector<ParameterSpec> block_norms(const ModelConfig& c) {
  return {{"input_layernorm.weight", {c.hidden_size}}, {"post_attention_layernorm.weight", {c.hidden_size}}};
}

BlockContext make_block_context(const ModelConfig& config, std::int64_t seqlen, torch::ScalarType dtype,
                                torch::Device device) {
  return {make_rope_table(config.rope, config.head_dim, seqlen, dtype, device)};
}

DecoderBlock::DecoderBlock(const ModelConfig& config, std::vector<Linear> linears, std::vector<torch::Tensor> norms)
    : config_(config), linears_(std::move(linears)), norms_(std::move(norms)) {
  RT_CHECK(linears_.size() == block_linears(config).size() && norms_.size() == block_norms(config).size());
}

torch::Tensor DecoderBlock::forward(const torch::Tensor& hidden, const BlockContext& context) const {
  const torch::Tensor attended = hidden + attention(rms_norm(hidden, norms_[0], config_.rms_norm_eps), context);
  return attended + mlp(rms_norm(attended, norms_[1], config_.rms_norm_eps));
}

torch::Tensor DecoderBlock::run_linear(std::size_t index, const torch::Tensor& x) const {
  torch::Tensor y = linears_[index].forward(x);
  if (observer_) observer_(linears_[index], y);
  return y;
}

torch::Tensor DecoderBlock::attention(const torch::Tensor& x, const BlockContext& context) const {
  const auto project = [&](LinearIndex which, std::int64_t heads) {
    return run_linear(which, x).view({x.size(0), x.size(1), heads, config_.head_dim});
  };
  const torch::Tensor q = apply_rope(project(kQ, config_.n_heads), context.rope).transpose(1, 2);
  const torch::Tensor k = apply_rope(project(kK, config_.n_kv_heads), context.rope).transpose(1, 2);
  const torch::Tensor v = project(kV, config_.n_kv_heads).transpose(1, 2);
  const double scale = 1.0 / std::sqrt(static_cast<double>(config_.head_dim));
  const torch::Tensor mixed = causal_attention(q, k, v, scale, config_.sliding_window);
  return run_linear(kO, mixed.transpose(1, 2).flatten(2));
}

torch::Tensor DecoderBlock::mlp(const torch::Tensor& x) const {
  return run_linear(kDown, swiglu(run_linear(kGate, x), run_linear(kUp, x)));
}

}  // namespace roundtable
