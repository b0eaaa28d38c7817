// Words in names.
#include "round/names.h"

#include <algorithm>
#include <cctype>
#include <map>

#include "base/pattern.h"

namespace roundtable {
namespace {

bool is_number(std::string_view word) {
  return !word.empty() && word.size() < 10 &&
         std::all_of(word.begin(), word.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
}

bool is_in(std::string_view pattern, const std::string& name) {
  static std::map<std::string_view, Pattern> compiled;  // of literals
  const auto found = compiled.find(pattern);
  if (found != compiled.end()) return found->second.is_in(name);
  return compiled.emplace(pattern, Pattern(std::string(pattern), "a pattern of ours")).first->second.is_in(name);
}

std::string_view last_word(std::string_view layer) { return layer.substr(layer.rfind('.') + 1); }

}  // namespace

std::optional<BlockPlace> place_of(const std::string& name) {
  std::size_t from = 0;
  for (std::size_t dot = name.find('.'); dot != std::string::npos; from = dot + 1, dot = name.find('.', from)) {
    const std::string word = name.substr(from, dot - from);
    if (from == 0 || !is_number(word)) continue;
    return BlockPlace{name.substr(0, from - 1), std::stol(word), name.substr(dot + 1)};
  }
  return std::nullopt;
}

// auto-round 0.16.1, utils/common.py: VISION_MM_KEYS, AUDIO_MM_KEYS and MM_MODULE_KEYS, which it looks for anywhere in
// a name; and the prediction of more tokens, whose layers it passes by as well.
bool is_of_other_part(const std::string& name) {
  return is_in(
      R"((^|\.)(\w*(vision|visual|image|audio|speech|video|wav)\w*|vit|img\w*|merger|\w*projector|talker|code2wav|)"
      R"(code_predictor|mtp\w*|nextn\w*|mm_\w+)(\.|$))",
      name);
}

bool is_linear_layer(const std::string& layer) {
  return !is_in(R"(embed|conv|rotary|relative_attention_bias|position|(^|\.)\w*norm\w*$|(^|\.)w[tp]e$|(^|\.)ln_\w+$)",
                layer);
}

bool is_router(const std::string& layer) { return is_in(kept_names().front().pattern, layer); }

const std::vector<KeptName>& kept_names() {
  static const std::vector<KeptName> names = {
      {R"((^|\.)(\w*router|gate)(\.|$))", "a router chooses experts"},
      {R"((^|\.)shared_expert_gate$)", "it has one output"},
      {R"((^|\.)\w*indexer(\.|$))", "a sparse indexer is small, and its output chooses keys"},
      {R"((^|\.)compressor(\.|$))", "it compresses keys and chooses them"},
      {R"((^|\.)in_proj_(a|b|ba)$)", "gates of linear attention with one output per head"},
      {R"((^|\.)(b_proj|f_a_proj|f_b_proj|g_a_proj|g_b_proj)$)", "gates of delta attention, small or of low rank"},
      {R"((^|\.)(a_proj|g_proj)$)", "a gate of attention with one output per head", true},
      {R"((^|\.)(x_proj|dt_proj)$)", "step sizes of Mamba, and B and C: they enter an exponential"},
      {R"((^|\.)(\w+_hc|hc_\w+|\w*hyper_connection)(\.|$))", "weights that mix the streams of hyper-connections"},
      {R"((^|\.)(per_layer_input_gate|per_layer_projection|altup|laurel)(\.|$))",
       "gates of the inputs of each layer, and small projections around the block"},
      {R"((^|\.)\w*layernorm\.)", "part of a norm"},
  };
  return names;
}

bool matches_kept(const KeptName& kept, const std::string& layer) { return is_in(kept.pattern, layer); }

std::int64_t expert_in(const std::string& layer) {
  constexpr std::string_view kExperts = "experts.";
  const std::size_t at = layer.find(kExperts);
  if (at == std::string::npos || (at > 0 && layer[at - 1] != '.')) return -1;
  const std::size_t from = at + kExperts.size();
  const std::string word = layer.substr(from, layer.find('.', from) - from);
  return is_number(word) ? std::stol(word) : -1;
}

bool is_embedding(const std::string& layer) {
  const std::string word(last_word(layer));
  return word == "wte" || (is_in("embed", word) && !is_in("position|embed_out", word));
}

std::optional<std::size_t> rank_of_head(const std::string& layer) {
  constexpr std::string_view kHeads[] = {"lm_head", "embed_out", "output", "head", "output_layer"};
  const auto found = std::find(std::begin(kHeads), std::end(kHeads), last_word(layer));
  if (found == std::end(kHeads)) return std::nullopt;
  return static_cast<std::size_t>(found - std::begin(kHeads));
}

}  // namespace roundtable
