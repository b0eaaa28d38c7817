// Parameters from the description.
#include "model/description/block_layout.h"

#include <fmt/format.h>

namespace roundtable {
namespace {

void add_attention(const ModelConfig& c, std::vector<LinearSpec>& linears) {
  const BlockNames& names = c.block_names;
  const std::int64_t q = c.n_heads * c.head_dim;
  const std::int64_t kv = c.n_kv_heads * c.head_dim;
  if (names.qkv.empty()) {
    linears.push_back({names.q, q, c.hidden_size, c.attention_bias, c.conv1d});
    linears.push_back({names.k, kv, c.hidden_size, c.attention_bias, c.conv1d});
    linears.push_back({names.v, kv, c.hidden_size, c.attention_bias, c.conv1d});
  } else {
    linears.push_back({names.qkv, q + 2 * kv, c.hidden_size, c.attention_bias, c.conv1d});
  }
  linears.push_back({names.o, c.hidden_size, q, c.attention_out_bias, c.conv1d});
}

// One MLP, its names below `prefix`.
void add_mlp(const ModelConfig& c, const std::string& prefix, std::vector<LinearSpec>& linears) {
  const BlockNames& names = c.block_names;
  const std::int64_t wide = c.intermediate_size;
  if (!names.gate_up.empty()) {
    linears.push_back({prefix + names.gate_up, 2 * wide, c.hidden_size, c.mlp_bias, c.conv1d});
  } else {
    if (!names.gate.empty()) linears.push_back({prefix + names.gate, wide, c.hidden_size, c.mlp_bias, c.conv1d});
    linears.push_back({prefix + names.up, wide, c.hidden_size, c.mlp_bias, c.conv1d});
  }
  linears.push_back({prefix + names.down, c.hidden_size, wide, c.mlp_bias, c.conv1d});
}

void add_norm(const ModelConfig& c, const std::string& name, std::int64_t width, std::vector<ParameterSpec>& norms) {
  if (name.empty()) return;
  norms.push_back({name + ".weight", {width}});
  if (c.norm == NormKind::kLayer) norms.push_back({name + ".bias", {width}});
}

}  // namespace

std::vector<std::int64_t> ParameterSpec::stored_shape() const {
  return transposed ? std::vector<std::int64_t>(shape.rbegin(), shape.rend()) : shape;
}

std::vector<LinearSpec> block_linears(const ModelConfig& c) {
  std::vector<LinearSpec> linears;
  add_attention(c, linears);
  if (c.n_experts == 0) add_mlp(c, "", linears);
  for (std::int64_t expert = 0; expert < c.n_experts; ++expert) {
    add_mlp(c, fmt::format("{}.{}.", c.block_names.experts, expert), linears);
  }
  return linears;
}

std::vector<ParameterSpec> block_norms(const ModelConfig& c) {
  const BlockNames& names = c.block_names;
  std::vector<ParameterSpec> norms;
  for (const std::string& name : {names.attention_norm, names.attention_out_norm, names.mlp_norm, names.mlp_out_norm}) {
    add_norm(c, name, c.hidden_size, norms);
  }
  for (const std::string& name : {names.q_norm, names.k_norm}) add_norm(c, name, c.head_dim, norms);
  if (c.n_experts > 0) norms.push_back({names.router + ".weight", {c.n_experts, c.hidden_size}});
  return norms;
}

std::vector<ParameterSpec> block_parameters(const ModelConfig& c) {
  const std::vector<LinearSpec> linears = block_linears(c);
  std::vector<ParameterSpec> parameters;
  for (const LinearSpec& linear : linears) parameters.push_back(linear.weight());
  for (const LinearSpec& linear : linears) {
    if (linear.bias) parameters.push_back({linear.name + ".bias", {linear.out}});
  }
  for (const ParameterSpec& norm : block_norms(c)) parameters.push_back(norm);
  return parameters;
}

std::vector<ParameterSpec> outside_parameters(const ModelConfig& c) {
  const ModelNames& names = c.names;
  const std::int64_t width = c.embedding_width();
  std::vector<ParameterSpec> parameters = {{names.embedding + ".weight", {c.vocab_size, width}}};
  if (!names.positions.empty()) {
    parameters.push_back({names.positions + ".weight", {c.max_position_embeddings + c.position_offset, c.hidden_size}});
  }
  if (!names.project_in.empty()) parameters.push_back({names.project_in + ".weight", {c.hidden_size, width}});
  if (!names.project_out.empty()) parameters.push_back({names.project_out + ".weight", {width, c.hidden_size}});
  add_norm(c, names.final_norm, c.hidden_size, parameters);
  if (!c.tie_word_embeddings) parameters.push_back({names.head + ".weight", {c.vocab_size, width}});
  return parameters;
}

std::int64_t expert_of(const ModelConfig& c, const std::string& linear) {
  const std::string prefix = c.block_names.experts + ".";
  if (c.n_experts == 0 || !linear.starts_with(prefix)) return -1;
  return std::stoll(linear.substr(prefix.size()));
}

}  // namespace roundtable
