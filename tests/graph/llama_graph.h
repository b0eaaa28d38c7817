// The graph of a Llama block, node by node as the export tool writes it (transformers 5.23, modeling_llama.py), and
// what its parts are in other models.
#pragma once

#include <cmath>
#include <limits>

#include "tests/graph/graph_builder.h"

namespace roundtable::testing {

// The smallest Llama that the tests of several folders share; with other numbers, another.
struct TinyLlama {
  std::int64_t hidden = 64;
  std::int64_t intermediate = 96;
  std::int64_t heads = 4;
  std::int64_t kv_heads = 2;
  std::int64_t head_dim = 16;
  std::int64_t vocab = 32;
  std::int64_t blocks = 1;
  double norm_eps = 1e-6;
  double theta = 10000;
  bool tied = false;               // the head is the embedding
  std::int64_t max_positions = 0;  // as model.json has it

  std::int64_t rows() const { return heads * head_dim; }        // of q_proj
  std::int64_t kv_rows() const { return kv_heads * head_dim; }  // of k_proj and v_proj
};

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

// RoPE's cosines and sines (RoFormer, arXiv 2104.09864) as an export leaves them: [1, 1, seqlen, head_dim].
inline void add_rope_constants(GraphFiles& files, const TinyLlama& llama, std::int64_t seqlen,
                               torch::ScalarType dtype) {
  const torch::Tensor even = torch::arange(0, llama.head_dim, 2, torch::kFloat64) / static_cast<double>(llama.head_dim);
  const torch::Tensor frequencies = torch::exp(-std::log(llama.theta) * even);
  const torch::Tensor half = torch::arange(seqlen).to(torch::kFloat64).unsqueeze(1) * frequencies;
  const torch::Tensor angles = torch::cat({half, half}, -1).view({1, 1, seqlen, llama.head_dim});
  files.constants["cos"] = angles.cos().to(dtype).contiguous();
  files.constants["sin"] = angles.sin().to(dtype).contiguous();
}

inline json linear_parameter(PartBuilder& kind, const std::string& name, std::int64_t out, std::int64_t in) {
  return kind.parameter(name + ".weight", {out, in}, "linear");
}

// hidden + attention(norm(hidden)).
inline json llama_attention_nodes(PartBuilder& kind, const TinyLlama& llama, std::int64_t seqlen, const json& hidden) {
  const auto weight = [&](const char* name, std::int64_t out, std::int64_t in) {
    return linear_parameter(kind, std::string("self_attn.") + name, out, in);
  };
  const json q = weight("q_proj", llama.rows(), llama.hidden), k = weight("k_proj", llama.kv_rows(), llama.hidden);
  const json v = weight("v_proj", llama.kv_rows(), llama.hidden), o = weight("o_proj", llama.hidden, llama.rows());
  const json norm = kind.parameter("input_layernorm.weight", {llama.hidden});
  const json cos = kind.input("constant", "cos"), sin = kind.input("constant", "sin");
  const json batch = kind.call("aten::sym_size.int", {hidden, 0});
  const json x = rms_norm_nodes(kind, hidden, norm, llama.norm_eps);
  const auto by_head = [&](const json& w) {
    const json y = kind.call("aten::linear", {x, w});
    const json view = kind.call("aten::view", {y, json::array({batch, seqlen, -1, llama.head_dim})});
    return kind.call("aten::transpose.int", {view, 1, 2});
  };
  const json query = by_head(q), key = by_head(k), value = by_head(v);
  const std::int64_t half = llama.head_dim / 2;
  const double scale = 1 / std::sqrt(static_cast<double>(llama.head_dim));
  const json mixed =
      kind.call("rt::attention", {rope_nodes(kind, query, cos, sin, half), rope_nodes(kind, key, cos, sin, half), value,
                                  nullptr, nullptr, scale, true, 0, 0.0});
  const json flat = kind.call("aten::reshape", {mixed, json::array({batch, seqlen, -1})});
  return kind.call("aten::add.Tensor", {hidden, kind.call("aten::linear", {flat, o})});
}

// Embedding, norm and head, tied or not. transformers' names.
inline Ends llama_ends(const TinyLlama& llama, torch::ScalarType dtype) {
  const char* embedding = "model.embed_tokens.weight";
  Ends ends{PartBuilder(dtype), PartBuilder(dtype), llama.vocab};
  const std::vector<std::int64_t> shape{llama.vocab, llama.hidden};
  const json table = ends.embed.parameter(embedding, shape, "embedding");
  ends.embed.output(ends.embed.call("aten::embedding", {table, ends.embed.input("tokens")}));
  const json norm = ends.head.parameter("model.norm.weight", {llama.hidden});
  json weight;
  if (llama.tied) {
    weight = ends.head.bare_parameter("lm_head.weight", shape);
    ends.head.tensor(embedding, "lm_head.weight", 0, shape, {llama.hidden, 1});
  } else {
    weight = ends.head.parameter("lm_head.weight", shape, "linear");
  }
  const json x = rms_norm_nodes(ends.head, ends.head.input("hidden"), norm, llama.norm_eps);
  ends.head.output(ends.head.call("aten::linear", {x, weight}), "logits");
  return ends;
}

// The whole of a model of such blocks.
inline GraphFiles llama_files(const PartBuilder& kind, const TinyLlama& llama, std::int64_t seqlen) {
  GraphFiles files =
      model_of(kind, {seqlen, llama.hidden}, static_cast<int>(llama.blocks), llama_ends(llama, kind.dtype()));
  if (llama.tied) files.model["head_name"] = "lm_head.weight";
  if (llama.max_positions > 0) files.model["max_positions"] = llama.max_positions;
  add_rope_constants(files, llama, seqlen, kind.dtype());
  return files;
}

inline GraphFiles llama_model(const TinyLlama& llama, std::int64_t seqlen, torch::ScalarType dtype) {
  PartBuilder kind(dtype);
  const json hidden = kind.input("hidden");
  const json middle = llama_attention_nodes(kind, llama, seqlen, hidden);
  const json gate = linear_parameter(kind, "mlp.gate_proj", llama.intermediate, llama.hidden);
  const json up = linear_parameter(kind, "mlp.up_proj", llama.intermediate, llama.hidden);
  const json down = linear_parameter(kind, "mlp.down_proj", llama.hidden, llama.intermediate);
  const json norm = kind.parameter("post_attention_layernorm.weight", {llama.hidden});
  const json y = rms_norm_nodes(kind, middle, norm, llama.norm_eps);
  const json open = kind.call("aten::silu", {kind.call("aten::linear", {y, gate})});
  const json gated = kind.call("aten::mul.Tensor", {open, kind.call("aten::linear", {y, up})});
  kind.output(kind.call("aten::add.Tensor", {middle, kind.call("aten::linear", {gated, down})}));
  return llama_files(kind, llama, seqlen);
}

}  // namespace roundtable::testing
