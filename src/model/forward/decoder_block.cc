// Forward pass of a block, through LibTorch.
#include "model/forward/decoder_block.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>

#include "base/activity.h"
#include "base/error.h"
#include "model/forward/activation.h"
#include "model/attention/attention.h"
#include "model/forward/router.h"

namespace roundtable {
namespace {

// Hands out a block's norms by name.
class NormFinder {
 public:
  NormFinder(const ModelConfig& config, const std::vector<torch::Tensor>& tensors)
      : config_(config), specs_(block_norms(config)), tensors_(tensors) {
    RT_CHECK(specs_.size() == tensors_.size());
  }
  Norm norm(const std::string& name) const {
    if (name.empty()) return {};
    return {config_.norm, config_.norm_eps, tensor(name + ".weight"), tensor(name + ".bias")};
  }
  torch::Tensor tensor(const std::string& name) const {
    for (std::size_t i = 0; i < specs_.size(); ++i) {
      if (specs_[i].name == name) return tensors_[i];
    }
    return {};
  }

 private:
  const ModelConfig& config_;
  std::vector<ParameterSpec> specs_;
  const std::vector<torch::Tensor>& tensors_;
};

}  // namespace

BlockContext make_block_context(const ModelConfig& config, std::int64_t seqlen, torch::ScalarType dtype,
                                torch::Device device) {
  BlockContext context;
  context.full.rope = make_rope_table(config.rope, config.head_dim, seqlen, dtype, device);
  context.sliding.rope = config.has_sliding_rope
                             ? make_rope_table(config.sliding_rope, config.head_dim, seqlen, dtype, device)
                             : context.full.rope;
  context.sliding.window = config.sliding_window;
  return context;
}

DecoderBlock::DecoderBlock(const ModelConfig& config, std::int64_t index, std::vector<Linear> linears,
                           const std::vector<torch::Tensor>& norms)
    : config_(config), index_(index), linears_(std::move(linears)) {
  const std::size_t experts = static_cast<std::size_t>(std::max<std::int64_t>(1, config.n_experts));
  first_mlp_ = config.block_names.qkv.empty() ? 4 : 2;
  an_mlp_ = config.block_names.gate_up.empty() && !config.block_names.gate.empty() ? 3 : 2;
  RT_CHECK(linears_.size() == first_mlp_ + experts * an_mlp_);
  const NormFinder find(config, norms);
  const BlockNames& names = config.block_names;
  attention_norm_ = find.norm(names.attention_norm);
  attention_out_norm_ = find.norm(names.attention_out_norm);
  mlp_norm_ = find.norm(names.mlp_norm);
  mlp_out_norm_ = find.norm(names.mlp_out_norm);
  q_norm_ = find.norm(names.q_norm);
  k_norm_ = find.norm(names.k_norm);
  router_ = find.tensor(names.router + ".weight");
  expert_tokens_.resize(static_cast<std::size_t>(config.n_experts));
}

torch::Tensor DecoderBlock::forward(const torch::Tensor& x, const BlockContext& context) const {
  const AttentionContext& mine = config_.slides(index_) ? context.sliding : context.full;
  switch (config_.residual) {
    case Residual::kParallel:
      return mlp(mlp_norm_.forward(x)) + attention(attention_norm_.forward(x), mine) + x;
    case Residual::kAfter: {
      const torch::Tensor attended = attention_norm_.forward(x + attention(x, mine));
      return mlp_norm_.forward(attended + mlp(attended));
    }
    default: {
      const torch::Tensor attended = x + attention_out_norm_.forward(attention(attention_norm_.forward(x), mine));
      return attended + mlp_out_norm_.forward(mlp(mlp_norm_.forward(attended)));
    }
  }
}

torch::Tensor DecoderBlock::run_linear(std::size_t index, const torch::Tensor& x) const {
  torch::Tensor y = linears_[index].forward(x);
  if (observer_) observer_(linears_[index], x, y);
  return y;
}

DecoderBlock::Heads DecoderBlock::project(const torch::Tensor& x) const {
  const auto heads = [&](const torch::Tensor& y, std::int64_t n) {
    return y.view({x.size(0), x.size(1), n, config_.head_dim});
  };
  const std::int64_t kv = config_.n_kv_heads;
  if (config_.block_names.qkv.empty()) {
    return {heads(run_linear(0, x), config_.n_heads), heads(run_linear(1, x), kv), heads(run_linear(2, x), kv)};
  }
  const torch::Tensor all = run_linear(0, x);
  if (config_.fused_qkv == FusedQkv::kByHead) {
    const auto parts = all.view({x.size(0), x.size(1), config_.n_heads, 3 * config_.head_dim}).chunk(3, -1);
    return {parts[0], parts[1], parts[2]};
  }
  const auto parts = all.view({x.size(0), x.size(1), config_.n_heads + 2 * kv, config_.head_dim})
                         .split_with_sizes({config_.n_heads, kv, kv}, 2);
  return {parts[0], parts[1], parts[2]};
}

torch::Tensor DecoderBlock::attention(const torch::Tensor& x, const AttentionContext& context) const {
  const Heads heads = project(x);
  const torch::Tensor q = apply_rope(q_norm_.forward(heads.q), context.rope).transpose(1, 2);
  const torch::Tensor k = apply_rope(k_norm_.forward(heads.k), context.rope).transpose(1, 2);
  const torch::Tensor mixed = causal_attention(q, k, heads.v.transpose(1, 2), config_.attention_scale_of(index_),
                                               context.window, config_.attention_soft_cap);
  return run_linear(first_mlp_ - 1, mixed.transpose(1, 2).flatten(2));
}

// The MLP whose first layer is linears_[first].
torch::Tensor DecoderBlock::dense_mlp(const torch::Tensor& x, std::size_t first) const {
  const torch::Tensor y = run_linear(first, x);
  if (an_mlp_ == 3) return run_linear(first + 2, activate_gated(config_.activation, y, run_linear(first + 1, x)));
  if (config_.block_names.gate_up.empty()) return run_linear(first + 1, activate(config_.activation, y));
  const auto halves = y.chunk(2, -1);
  return run_linear(first + 1, activate_gated(config_.activation, halves[0], halves[1]));
}

// An expert without a token is not run: its weights get no gradient, and stay rounded to nearest.
torch::Tensor DecoderBlock::mixture(const torch::Tensor& x) const {
  const torch::Tensor tokens = x.flatten(0, 1);  // [tokens, hidden]
  torch::Tensor sum = torch::zeros_like(tokens);
  const std::vector<ExpertLoad> loads = route(tokens, router_, config_);
  for (std::size_t expert = 0; expert < loads.size(); ++expert) {
    const ExpertLoad& load = loads[expert];
    expert_tokens_[expert] += load.tokens.size(0);
    if (load.tokens.size(0) == 0) continue;
    const torch::Tensor y = dense_mlp(tokens.index_select(0, load.tokens), first_mlp_ + expert * an_mlp_);
    sum.index_add_(0, load.tokens, (y * load.weights).to(x.scalar_type()));
  }
  return sum.view_as(x);
}

torch::Tensor DecoderBlock::mlp(const torch::Tensor& x) const {
  return config_.n_experts > 0 ? mixture(x) : dense_mlp(x, first_mlp_);
}

torch::Tensor run_block(const DecoderBlock& block, const torch::Tensor& hidden, const BlockContext& context,
                        std::int64_t micro_batch) {
  const torch::NoGradGuard no_gradients;
  const std::int64_t width = micro_batch > 0 ? micro_batch : 8;
  torch::Tensor out = torch::empty_like(hidden);
  for (std::int64_t first = 0; first < hidden.size(0); first += width) {
    const std::int64_t n = std::min(width, hidden.size(0) - first);
    const torch::Tensor input = hidden.narrow(0, first, n).to(block.linears().front().weight.device());
    out.narrow(0, first, n).copy_(block.forward(input, context));
    note_progress();
  }
  return out;
}

}  // namespace roundtable
