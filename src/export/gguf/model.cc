// Entries, names and row orders.
#include "export/gguf/model.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <cmath>
#include <map>
#include <numbers>

#include "base/error.h"
#include "export/gguf/hparams.h"

namespace roundtable {
namespace {

// model_type -> general.architecture
const std::map<std::string, std::string>& architectures() {
  static const std::map<std::string, std::string> known = {
      {"llama", "llama"}, {"mistral", "llama"}, {"qwen2", "qwen2"}, {"qwen3", "qwen3"}};
  return known;
}

std::string architecture(const CheckpointModel& model) {
  const auto found = architectures().find(model.type);
  RT_CHECK(found != architectures().end());
  return found->second;
}

// general.file_type, llama.cpp's include/llama.h, llama_ftype.
std::uint32_t file_type(GgufType type) {
  switch (type) {
    case GgufType::kQ4_0:
      return 2;
    case GgufType::kQ4_1:
      return 3;
    case GgufType::kQ8_0:
      return 7;
    case GgufType::kQ2_K:
      return 10;
    case GgufType::kQ3_K:
      return 11;
    case GgufType::kQ4_K:
      return 14;
    case GgufType::kF32:
      return 0;
    case GgufType::kF16:
      return 1;
    case GgufType::kBF16:
      return 32;
  }
  RT_UNREACHABLE("a type without a number");
}

}  // namespace

std::optional<std::string> gguf_model_obstacle(const CheckpointModel& model) {
  if (!architectures().contains(model.type)) {
    return fmt::format("'{}' models are not written; those that are: llama, mistral, qwen2, qwen3", model.type);
  }
  const GgufHparams hparams = gguf_hparams(model);
  if (hparams.window > 0 && hparams.window < hparams.positions) {
    // llama.cpp's llama-model.cpp reads attention.sliding_window for other architectures only.
    return fmt::format("llama.cpp gives this model all of its context, not its window of {} tokens",
                       hparams.window);
  }
  const std::string& rope = hparams.rope.type;
  if (rope != "default" && rope != "linear" && rope != "llama3")
    return fmt::format("RoPE of type '{}' is not written", rope);
  return std::nullopt;
}

void add_gguf_model(GgufEntries& entries, const CheckpointModel& model, GgufType type) {
  const std::string name = architecture(model);
  const GgufHparams hparams = gguf_hparams(model);
  const auto number = [&](const char* key, std::int64_t value) {
    entries.add(name + "." + key, static_cast<std::uint32_t>(value));
  };
  entries.add("general.architecture", name);
  entries.add("general.type", "model");
  entries.add("general.quantized_by", "roundtable");
  entries.add("general.file_type", file_type(type));
  entries.add("general.quantization_version", std::uint32_t{2});
  number("block_count", model.n_blocks);
  number("context_length", hparams.positions);
  number("embedding_length", hparams.hidden_size);
  number("feed_forward_length", hparams.intermediate_size);
  number("attention.head_count", hparams.n_heads);
  number("attention.head_count_kv", hparams.n_kv_heads);
  number("attention.key_length", hparams.head_dim);
  number("attention.value_length", hparams.head_dim);
  number("rope.dimension_count", hparams.head_dim);
  number("vocab_size", model.vocab_size);
  entries.add(name + ".rope.freq_base", static_cast<float>(hparams.rope.theta));
  entries.add(name + ".attention.layer_norm_rms_epsilon", static_cast<float>(hparams.norm_eps));
  if (hparams.rope.type == "linear") {
    entries.add(name + ".rope.scaling.type", "linear");
    entries.add(name + ".rope.scaling.factor", static_cast<float>(hparams.rope.factor));
  }
}

std::string gguf_name(const CheckpointModel& model, const std::string& name) {
  if (name == model.embedding) return "token_embd.weight";
  if (name == "model.norm.weight") return "output_norm.weight";
  if (name == model.head_layer + ".weight") return "output.weight";
  constexpr std::string_view kBlocks = "model.layers.";
  if (!name.starts_with(kBlocks)) return "";
  const std::size_t end = name.find('.', kBlocks.size());
  const std::size_t last = name.rfind('.');
  if (end == std::string::npos || last <= end) return "";
  const std::string part = name.substr(end + 1, last - end - 1);
  for (const auto& [ours, theirs] : {std::pair{"self_attn.q_proj", "attn_q"},
                                     {"self_attn.k_proj", "attn_k"},
                                     {"self_attn.v_proj", "attn_v"},
                                     {"self_attn.o_proj", "attn_output"},
                                     {"mlp.gate_proj", "ffn_gate"},
                                     {"mlp.up_proj", "ffn_up"},
                                     {"mlp.down_proj", "ffn_down"},
                                     {"input_layernorm", "attn_norm"},
                                     {"post_attention_layernorm", "ffn_norm"},
                                     {"self_attn.q_norm", "attn_q_norm"},
                                     {"self_attn.k_norm", "attn_k_norm"}}) {
    if (part == ours) {
      return fmt::format("blk.{}.{}{}", name.substr(kBlocks.size(), end - kBlocks.size()), theirs, name.substr(last));
    }
  }
  return "";
}

torch::Tensor gguf_row_order(const CheckpointModel& model, const std::string& layer) {
  if (architecture(model) != "llama") return {};
  std::int64_t heads = 0;
  const GgufHparams hparams = gguf_hparams(model);
  if (layer.ends_with(".self_attn.q_proj")) heads = hparams.n_heads;
  if (layer.ends_with(".self_attn.k_proj")) heads = hparams.n_kv_heads;
  if (heads == 0) return {};
  // llama.py, permute(): [heads, 2, half] -> [heads, half, 2]
  return torch::arange(heads * hparams.head_dim).view({heads, 2, hparams.head_dim / 2}).transpose(1, 2).reshape({-1});
}

torch::Tensor gguf_rope_factors(const CheckpointModel& model) {
  const GgufHparams hparams = gguf_hparams(model);
  const GgufRope& rope = hparams.rope;
  if (rope.type != "llama3") return {};
  const std::int64_t rotated = hparams.head_dim;
  const auto context = static_cast<double>(rope.original_positions);
  torch::Tensor factors = torch::empty({rotated / 2});
  for (std::int64_t i = 0; i < rotated / 2; ++i) {
    const double frequency = std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(rotated));
    const double wavelength = 2 * std::numbers::pi / frequency;
    double factor = rope.factor;
    if (wavelength < context / rope.high_freq_factor) {
      factor = 1;
    } else if (wavelength <= context / rope.low_freq_factor) {
      const double smooth =
          (context / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
      factor = 1 / ((1 - smooth) / rope.factor + smooth);
    }
    factors[i] = static_cast<float>(factor);
  }
  return factors;
}

}  // namespace roundtable
