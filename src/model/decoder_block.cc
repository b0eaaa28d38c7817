// Forward pass of the Llama family's block, through LibTorch.
#include "model/decoder_block.h"

#include <torch/torch.h>

#include <cmath>
#include <optional>

#include "base/error.h"
#include "model/rms_norm.h"
#include "model/swiglu.h"

namespace roundtable {
namespace {

// Places in block_linears().
enum LinearIndex { kQ, kK, kV, kO, kGate, kUp, kDown };

// [batch, seqlen, kv_heads, head_dim] -> [batch, heads, seqlen, head_dim], each key/value head serving a run of heads.
torch::Tensor repeat_heads(const torch::Tensor& x, std::int64_t repeats) {
  torch::Tensor heads_first = x.transpose(1, 2);
  if (repeats == 1) return heads_first;
  const auto sizes = heads_first.sizes();
  return heads_first.unsqueeze(2)
      .expand({sizes[0], sizes[1], repeats, sizes[2], sizes[3]})
      .reshape({sizes[0], sizes[1] * repeats, sizes[2], sizes[3]});
}

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
  BlockContext context{make_rope_table(config.rope, config.head_dim, seqlen, dtype, device), {}};
  if (config.sliding_window > 0 && config.sliding_window < seqlen) {
    // Position i sees j with i - window < j <= i.
    const torch::Tensor causal = torch::ones({seqlen, seqlen}, torch::kBool).tril();
    context.mask = causal.logical_and(causal.tril(-config.sliding_window).logical_not()).to(device);
  }
  return context;
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
  const std::int64_t repeats = config_.n_heads / config_.n_kv_heads;
  const torch::Tensor q = apply_rope(project(kQ, config_.n_heads), context.rope).transpose(1, 2);
  const torch::Tensor k = repeat_heads(apply_rope(project(kK, config_.n_kv_heads), context.rope), repeats);
  const torch::Tensor v = repeat_heads(project(kV, config_.n_kv_heads), repeats);
  const bool causal = !context.mask.defined();
  const auto mask = causal ? std::nullopt : std::optional<torch::Tensor>(context.mask);
  const torch::Tensor mixed = at::scaled_dot_product_attention(q, k, v, mask, /*dropout_p=*/0.0, causal);
  return run_linear(kO, mixed.transpose(1, 2).flatten(2));
}

torch::Tensor DecoderBlock::mlp(const torch::Tensor& x) const {
  return run_linear(kDown, swiglu(run_linear(kGate, x), run_linear(kUp, x)));
}

}  // namespace roundtable
