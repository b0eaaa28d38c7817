// Reading and writing the budget and the words of its options.
#include "config/auto_scheme.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>

#include "base/error.h"
#include "base/text.h"
#include "config/value.h"

namespace roundtable {
namespace {

const std::vector<std::string> kBudgetKeys = {"avg_bits", "options", "nsamples", "batch_size", "ignore_scale_zp_bits"};
constexpr std::string_view kAsymSuffix = "-asym";

const SchemeOption kBf16Option{};
const SchemeOption kMxFp4Option{4, 32, Symmetry::kSym, WeightType::kMxFp4};
const SchemeOption kNvFp4Option{4, 16, Symmetry::kSym, WeightType::kNvFp4};

// "4g128"
std::optional<SchemeOption> read_integers(std::string_view text) {
  SchemeOption option;
  if (text.ends_with(kAsymSuffix)) {
    option.scheme = Symmetry::kAsym;
    text.remove_suffix(kAsymSuffix.size());
  }
  const std::size_t g = text.find('g');
  if (g == std::string_view::npos) return {};
  const auto bits = parse_number<std::int64_t>(text.substr(0, g));
  const auto group_size = parse_number<std::int64_t>(text.substr(g + 1));
  if (!bits || !group_size) return {};
  option.bits = *bits;
  option.group_size = *group_size;
  const bool known = one_of<std::int64_t>({2, 3, 4, 8}).holds(option.bits) &&
                     special_or_from(-1, 1, std::int64_t{1} << 20).holds(option.group_size);
  return known ? std::optional(option) : std::nullopt;
}

std::optional<SchemeOption> option_of(std::string_view word) {
  for (const SchemeOption& option : {kBf16Option, kMxFp4Option, kNvFp4Option}) {
    if (word == option.word()) return option;
  }
  return word.starts_with('w') ? read_integers(word.substr(1)) : std::nullopt;
}

std::vector<SchemeOption> options_of(const std::vector<std::string>& words, const std::string& place) {
  std::vector<SchemeOption> options;
  for (const std::string& word : words) {
    const auto option = option_of(word);
    if (!option) {
      throw bad_input(place, fmt::format("unknown option {}", shown(word)),
                      "write w, the bits (2, 3, 4 or 8), g and the group size (-1: one group per channel), such as "
                      "w4g128, with -asym behind it for a zero point; or mxfp4, nvfp4 or bf16");
    }
    if (std::find(options.begin(), options.end(), *option) != options.end()) {
      throw bad_input(place, fmt::format("option {} is given twice", shown(word)));
    }
    options.push_back(*option);
  }
  if (options.size() < 2) {
    throw bad_input(place, "there is nothing to choose from", "give at least two options, such as [w2g64, w4g64]");
  }
  return options;
}

template <class T>
T value_of_key(const YamlNode& node, Origin origin, const std::string& place, const Constraint<T>& constraint) {
  auto value = convert<T>(node, origin);
  if (value && constraint.holds(*value)) return *value;
  throw bad_input(place, fmt::format("expected {}, found {}", constraint.values, shown_node(node)));
}

void set_key(AutoScheme& out, const std::string& key, const YamlNode& node, const std::string& place) {
  const auto count = whole_from(1, std::int64_t{1} << 24);
  if (key == "avg_bits") {
    out.avg_bits = value_of_key(node, Origin::kFile, place, finite_within(1, 16));
  } else if (key == "options") {
    out.options = options_of(value_of_key(node, Origin::kFile, place, list_or_none_of(some_text())), place);
  } else if (key == "nsamples") {
    out.nsamples = value_of_key(node, Origin::kFile, place, count);
  } else if (key == "batch_size") {
    out.batch_size = value_of_key(node, Origin::kFile, place, count);
  } else if (key == "ignore_scale_zp_bits") {
    out.ignore_scale_zp_bits = value_of_key(node, Origin::kFile, place, true_or_false());
  } else {
    throw bad_input(place, fmt::format("unknown key {}", shown(key)),
                    fmt::format("{}keys: {}", did_you_mean(nearest(key, kBudgetKeys)), fmt::join(kBudgetKeys, ", ")));
  }
}

}  // namespace

std::string SchemeOption::word() const {
  if (keeps_float()) return "bf16";
  if (data_type == WeightType::kMxFp4) return "mxfp4";
  if (data_type == WeightType::kNvFp4) return "nvfp4";
  return fmt::format("w{}g{}{}", bits, group_size, scheme == Symmetry::kAsym ? kAsymSuffix : "");
}

AutoScheme read_auto_scheme(const YamlNode& node, const std::string& file, const std::string& place) {
  if (node.kind == YamlNode::Kind::kNull) return {};
  if (node.kind != YamlNode::Kind::kMap) {
    throw bad_input(place, fmt::format("expected a budget and options, found {}", shown_node(node)),
                    "such as {avg_bits: 3.5, options: [w2g64, w4g64, w8g128]}");
  }
  AutoScheme out;
  std::set<std::string> given;
  for_each_entry(node, file, "auto_scheme.",
                 [&](const std::string& key, const std::string& line, const YamlNode& value) {
                   set_key(out, key, value, fmt::format("{}: auto_scheme: {}", line, key));
                   given.insert(key);
                 });
  for (const char* key : {"avg_bits", "options"}) {
    if (given.empty() || given.contains(key)) continue;
    throw bad_input(place, fmt::format("auto_scheme has no {}", key),
                    "such as {avg_bits: 3.5, options: [w2g64, w4g64, w8g128]}");
  }
  return out;
}

std::string written(const AutoScheme& auto_scheme) {
  if (!auto_scheme.is_on()) return "{}";
  std::vector<std::string> words;
  for (const SchemeOption& option : auto_scheme.options) words.push_back(option.word());
  return fmt::format("{{avg_bits: {}, options: [{}], nsamples: {}, batch_size: {}, ignore_scale_zp_bits: {}}}",
                     auto_scheme.avg_bits, fmt::join(words, ", "), auto_scheme.nsamples, auto_scheme.batch_size,
                     auto_scheme.ignore_scale_zp_bits);
}

}  // namespace roundtable
