// The graph of a Llama block, node by node as the export tool writes it (transformers 5.23, modeling_llama.py), and
// what its parts are in other models.
#pragma once

#include "model/description/model_config.h"
#include "model/forward/rope.h"
#include "tests/graph/graph_builder.h"

namespace roundtable::testing {

// weight * to(x * rsqrt(mean(x^2) + eps)); in fp32 without conversions.
inline json rms_norm_nodes(PartBuilder& kind, const json& x, const json& weight, double eps) {
  const bool fp32 = kind.dtype() == torch::kFloat32;
  const json wide = fp32 ? x : kind.call("aten::to.dtype", {x, {{"dtype", "float32"}}});
  const json mean =
      kind.call("aten::mean.dim", {kind.call("aten::pow.Tensor_Scalar", {wide, 2}), json::array({-1}), true});
  const json root = kind.call("aten::rsqrt", {kind.call("aten::add.Tensor", {mean, eps})});
  const json quotient = kind.call("aten::mul.Tensor", {wide, root});
  const json back = fp32 ? quotient : kind.call("aten::to.dtype", {quotient, {{"dtype", dtype_name(kind.dtype())}}});
  return kind.call("aten::mul.Tensor", {weight, back});
}

// Gemma's: to((x * rsqrt(mean(x^2) + eps)) * (1 + w)).
inline json plus_one_norm_nodes(PartBuilder& kind, const json& x, const json& weight, double eps) {
  const bool fp32 = kind.dtype() == torch::kFloat32;
  const auto widen = [&](const json& v) { return fp32 ? v : kind.call("aten::to.dtype", {v, {{"dtype", "float32"}}}); };
  const json wide = widen(x);
  const json mean =
      kind.call("aten::mean.dim", {kind.call("aten::pow.Tensor_Scalar", {wide, 2}), json::array({-1}), true});
  const json root = kind.call("aten::rsqrt", {kind.call("aten::add.Tensor", {mean, eps})});
  const json quotient = kind.call("aten::mul.Tensor", {wide, root});
  const json y = kind.call("aten::mul.Tensor", {quotient, kind.call("aten::add.Tensor", {widen(weight), 1.0})});
  return fp32 ? y : kind.call("aten::type_as", {y, x});
}

// x * cos + rotate_half(x) * sin over dimension 3.
inline json rope_nodes(PartBuilder& kind, const json& x, const json& cos, const json& sin, std::int64_t half) {
  const json straight = kind.call("aten::mul.Tensor", {x, cos});
  const json low = kind.call("aten::slice.Tensor", {x, 3, 0, half});
  const json high = kind.call("aten::slice.Tensor", {x, 3, half, std::numeric_limits<std::int64_t>::max()});
  const json turned = kind.call("aten::cat", {json::array({kind.call("aten::neg", {high}), low}), -1});
  return kind.call("aten::add.Tensor", {straight, kind.call("aten::mul.Tensor", {turned, sin})});
}

// cos and sin [1, 1, seqlen, head_dim], as an export leaves them.
inline void add_rope_constants(GraphFiles& files, const ModelConfig& config, std::int64_t seqlen,
                               torch::ScalarType dtype) {
  const RopeTable table = make_rope_table(config.rope, config.head_dim, seqlen, dtype, torch::kCPU);
  files.constants["cos"] = table.cos.view({1, 1, seqlen, -1}).contiguous();
  files.constants["sin"] = table.sin.view({1, 1, seqlen, -1}).contiguous();
}

inline GraphFiles llama_model(const ModelConfig& config, std::int64_t seqlen, torch::ScalarType dtype) {
  PartBuilder kind(dtype);
  const std::int64_t width = config.hidden_size, heads = config.n_heads * config.head_dim;
  const std::int64_t kv = config.n_kv_heads * config.head_dim;
  const auto weight = [&](const char* name, std::int64_t out, std::int64_t in) {
    return kind.parameter(std::string(name) + ".weight", {out, in}, "linear");
  };
  const json q = weight("self_attn.q_proj", heads, width), k = weight("self_attn.k_proj", kv, width);
  const json v = weight("self_attn.v_proj", kv, width), o = weight("self_attn.o_proj", width, heads);
  const json gate = weight("mlp.gate_proj", config.intermediate_size, width);
  const json up = weight("mlp.up_proj", config.intermediate_size, width);
  const json down = weight("mlp.down_proj", width, config.intermediate_size);
  const json norm_in = kind.parameter("input_layernorm.weight", {width});
  const json norm_mlp = kind.parameter("post_attention_layernorm.weight", {width});
  const json hidden = kind.input("hidden"), cos = kind.input("constant", "cos"), sin = kind.input("constant", "sin");
  const json batch = kind.call("aten::sym_size.int", {hidden, 0});
  const auto linear = [&](const json& x, const json& w) { return kind.call("aten::linear", {x, w}); };
  const auto by_head = [&](const json& y) {
    const json view = kind.call("aten::view", {y, json::array({batch, seqlen, -1, config.head_dim})});
    return kind.call("aten::transpose.int", {view, 1, 2});
  };
  const json x = rms_norm_nodes(kind, hidden, norm_in, config.norm_eps);
  const json query = by_head(linear(x, q)), key = by_head(linear(x, k)), value = by_head(linear(x, v));
  const std::int64_t half = config.head_dim / 2;
  const json mixed =
      kind.call("rt::attention", {rope_nodes(kind, query, cos, sin, half), rope_nodes(kind, key, cos, sin, half), value,
                                  nullptr, nullptr, config.attention_scale_of(0), true, 0, 0.0});
  const json flat = kind.call("aten::reshape", {mixed, json::array({batch, seqlen, -1})});
  const json middle = kind.call("aten::add.Tensor", {hidden, linear(flat, o)});
  const json y = rms_norm_nodes(kind, middle, norm_mlp, config.norm_eps);
  const json gated = kind.call("aten::mul.Tensor", {kind.call("aten::silu", {linear(y, gate)}), linear(y, up)});
  kind.output(kind.call("aten::add.Tensor", {middle, linear(gated, down)}));
  GraphFiles files = model_of(kind, {seqlen, width});
  add_rope_constants(files, config, seqlen, dtype);
  return files;
}

}  // namespace roundtable::testing
