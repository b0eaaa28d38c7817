// Names, expressions and parts.
#include "export/reader_names.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <string_view>

#include "export/expert_layers.h"

namespace roundtable {
namespace {

std::string escaped(std::string_view name) {
  std::string text;
  for (const char c : name) text += c == '.' ? std::string("\\.") : std::string(1, c);
  return text;
}

std::vector<std::string> words_of(const std::string& name) {
  std::vector<std::string> words;
  std::size_t from = 0;
  for (std::size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', from)) {
    words.push_back(name.substr(from, dot - from));
    from = dot + 1;
  }
  words.push_back(name.substr(from));
  return words;
}

std::optional<std::int64_t> number_in(const std::string& word) {
  const bool digits = !word.empty() && word.size() < 10 &&
                      std::all_of(word.begin(), word.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
  return digits ? std::optional(std::int64_t{std::stol(word)}) : std::nullopt;
}

// What wraps a part of a model without saying which.
bool is_wrapper(const std::string& word) {
  static const std::vector<std::string> words = {"model", "language_model", "thinker", "transformer"};
  return std::find(words.begin(), words.end(), word) != words.end();
}

// "mlp.experts" of "mlp.experts.3.up_proj"; empty for what is no single expert.
std::string experts_of(const std::string& layer) {
  const std::vector<std::string> words = words_of(layer);
  std::string before;
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    before += (before.empty() ? "" : ".") + words[i];
    if (words[i] == "experts" && number_in(words[i + 1])) return before;
  }
  return "";
}

bool have_one_scheme(const NamedLayer& a, const NamedLayer& b) {
  if (!a.scheme || !b.scheme) return !a.scheme && !b.scheme;
  return a.scheme->bits == b.scheme->bits && a.scheme->group_size == b.scheme->group_size &&
         a.scheme->symmetric == b.scheme->symmetric;
}

}  // namespace

ReaderNames::ReaderNames(const CheckpointModel& model, const CheckpointScheme& checkpoint) {
  const std::string first = model.first_block;  // "model.layers.0"
  const std::string list = first.substr(0, first.rfind('.'));
  const std::size_t dot = list.rfind('.');
  prefix_ = dot == std::string::npos ? "" : list.substr(0, dot + 1);
  list_ = dot == std::string::npos ? list : list.substr(dot + 1);
  const auto text = model.config.find("text_config");
  const bool wrapped = !model.text_config.empty() || (text != model.config.end() && text->is_object());
  block_lists_ = {list};
  if (wrapped) {
    for (const std::string& before : {list.substr(0, dot == std::string::npos ? 0 : dot),
                                      std::string("model.language_model"), std::string("language_model.model"),
                                      std::string("model")}) {
      if (before.empty() || std::find(before_.begin(), before_.end(), before) != before_.end()) continue;
      before_.push_back(before);
      if (before + "." + list_ != list) block_lists_.push_back(before + "." + list_);
    }
  }
  add_layers(checkpoint);
  add_other_parts(model, checkpoint);
}

std::string ReaderNames::pattern_of(const std::string& layer) const {
  if (!is_wrapped()) return "";
  if (!prefix_.empty() && layer.starts_with(prefix_)) {
    std::vector<std::string> before;
    for (const std::string& name : before_) before.push_back(escaped(name));
    return fmt::format("^(?:{})\\.{}$", fmt::join(before, "|"), escaped(layer.substr(prefix_.size())));
  }
  return fmt::format("^(?:.*\\.)?{}$", escaped(ending_of(layer)));
}

std::string ReaderNames::ending_of(const std::string& layer) const {
  if (!is_wrapped()) return layer;
  if (!prefix_.empty() && layer.starts_with(prefix_)) return layer.substr(prefix_.size());
  std::size_t from = 0;
  for (std::size_t dot = layer.find('.'); dot != std::string::npos && is_wrapper(layer.substr(from, dot - from));
       dot = layer.find('.', from)) {
    from = dot + 1;
  }
  return layer.substr(from);
}

void ReaderNames::add_layers(const CheckpointScheme& checkpoint) {
  std::vector<NamedLayer> single;
  std::map<std::string, std::pair<std::size_t, bool>> experts;  // the first of them, and whether all are like it
  for (const LayerScheme& layer : written_layers(checkpoint)) {
    single.push_back({layer.linear.name, pattern_of(layer.linear.name), layer.scheme, layer.outside_blocks});
    const std::string module = is_wrapped() ? experts_of(layer.linear.name) : "";
    if (module.empty()) continue;
    const auto [found, is_new] = experts.emplace(module, std::pair(single.size() - 1, true));
    if (!is_new && !have_one_scheme(single[found->second.first], single.back())) found->second.second = false;
  }
  for (std::size_t i = 0; i < single.size(); ++i) {
    const std::string module = is_wrapped() ? experts_of(single[i].name) : "";
    const auto found = experts.find(module);
    if (found == experts.end() || !found->second.second) {
      layers_.push_back(std::move(single[i]));
    } else if (found->second.first == i) {
      std::string pattern = pattern_of(module);
      pattern.insert(pattern.size() - 1, "(?:\\..*)?");  // before the $
      layers_.push_back({module, pattern, single[i].scheme, false});
    }
  }
}

void ReaderNames::add_other_parts(const CheckpointModel& model, const CheckpointScheme& checkpoint) {
  for (const std::string& name : checkpoint.carried_over) {
    if (name == model.embedding || name == model.head_layer + ".weight") continue;
    std::vector<std::string> words = words_of(name);
    while (words.size() > 1 && is_wrapper(words.front())) words.erase(words.begin());
    if (words.size() < 2) continue;
    std::string part = words.front();
    if (const auto number = number_in(words[1]); part == list_ && number) {
      if (*number < model.n_blocks) continue;  // of a block: no layer of its own
      part += "." + words[1];
    }
    if (std::find(other_parts_.begin(), other_parts_.end(), part) == other_parts_.end()) other_parts_.push_back(part);
  }
}

std::string ReaderNames::pattern_of_part(const std::string& part) {
  return fmt::format("(?:.*\\.)?{}\\..*", escaped(part));
}

}  // namespace roundtable
