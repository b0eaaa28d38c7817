// The strict reader of files and overrides, and the recipes whose values they start from.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/text.h"
#include "config/config.h"
#include "config/keys.h"
#include "config/value.h"
#include "config/yaml_tree.h"

namespace roundtable {
namespace {

constexpr std::size_t kLargestFile = std::size_t{1} << 20;

// Sets the one field named "section.key".
class Setter {
 public:
  // `place` begins the error; `file` is the file that line numbers inside the node belong to.
  Setter(std::string_view section, std::string_view key, const YamlNode& node, Origin origin, std::string place,
         std::string file)
      : section_(section), key_(key), node_(node), origin_(origin), place_(std::move(place)), file_(std::move(file)) {}

  template <class Struct>
  void section(const char* name, Struct& fields, const char*) {
    if (name == section_) fields.visit(*this);
  }
  template <class T>
  void operator()(const char* key, T& field, Effect, const char*, const Constraint<T>& constraint) {
    if (key != key_) return;
    if constexpr (std::is_same_v<T, WeightRules>) {
      field = own_yaml(read_weight_rules);
    } else if constexpr (std::is_same_v<T, AutoScheme>) {
      field = own_yaml(read_auto_scheme);
    } else {
      field = checked(constraint);
    }
  }

 private:
  template <class T>
  T checked(const Constraint<T>& constraint) const {
    auto value = convert<T>(node_, origin_);
    if (!value || !constraint.holds(*value)) {
      const bool is_text = std::is_same_v<T, std::string> || std::is_same_v<T, ByteSize> || std::is_same_v<T, TimeSpan>;
      const bool empty = node_.kind == YamlNode::Kind::kNull && is_text;
      throw bad_input(place_, fmt::format("expected {}, found {}", constraint.values, shown_node(node_)),
                      empty ? "write \"\" for an empty text" : "");
    }
    return constraint.settle ? constraint.settle(*value, place_) : std::move(*value);
  }

  // An option's text is YAML of its own.
  template <class Read>
  auto own_yaml(const Read& read) const {
    if (origin_ == Origin::kFile) return read(node_, file_, place_);
    return read(parse_yaml(node_.text, place_), place_, place_);
  }

  std::string_view section_;
  std::string_view key_;
  const YamlNode& node_;
  Origin origin_;
  std::string place_;
  std::string file_;
};

void set(Config& config, std::string_view section, std::string_view key, const YamlNode& node, Origin origin,
         const std::string& place, const std::string& file) {
  Setter setter(section, key, node, origin, place, file);
  config.visit(setter);
}

// ---- recipes ---------------------------------------------------------------------------------------------------

struct RecipeValues {
  std::int64_t batch_size;
  std::int64_t iters;
  std::int64_t seqlen;
  std::int64_t n_samples;
  double lr;  // 0: 1 / iters
};

// The values that the commands auto-round, auto-round-best, auto-round-light and auto-round-rtn start from (auto-round
// 0.16.1, cli/main.py, RECIPES). `rtn` is the peer's with disable_opt_rtn: plain rounding to nearest.
RecipeValues values_of(Recipe recipe) {
  switch (recipe) {
    case Recipe::kDefault:
      return {8, 200, 2048, 128, 0};
    case Recipe::kBest:
      return {8, 1000, 2048, 512, 0};
    case Recipe::kLight:
      return {8, 50, 2048, 128, 5e-3};
    case Recipe::kRtn:
      return {8, 0, 2048, 1, 0};
  }
  RT_UNREACHABLE("a recipe without values");
}

// Sets the keys that a recipe sets.
void apply_recipe(Recipe recipe, Config& config) {
  const RecipeValues values = values_of(recipe);
  config.tuning.recipe = recipe;
  config.tuning.batch_size = values.batch_size;
  config.tuning.iters = values.iters;
  config.tuning.lr = values.lr;
  config.calibration.seqlen = values.seqlen;
  config.calibration.n_samples = values.n_samples;
}

// ---- files and overrides ---------------------------------------------------------------------------------------

std::string read_file(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) throw call_error(path, "cannot open the config", errno);
  std::string text(kLargestFile + 1, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file.get()));
  if (std::ferror(file.get())) throw call_error(path, "cannot read the config", errno);
  if (text.size() > kLargestFile) throw bad_input(path, "is larger than 1 MiB, so it is not a config");
  return text;
}

void apply_document(Config& config, const YamlNode& root, const std::string& file) {
  if (root.kind == YamlNode::Kind::kNull) {
    throw bad_input(file, "is empty", fmt::format("sections: {}", fmt::join(names().section_names(), ", ")));
  }
  if (root.kind != YamlNode::Kind::kMap) {
    throw bad_input(fmt::format("{}:{}", file, root.line), fmt::format("expected sections, found {}", shown_node(root)),
                    fmt::format("sections: {}", fmt::join(names().section_names(), ", ")));
  }
  for_each_entry(root, file, "", [&](const std::string& section, const std::string& line, const YamlNode& body) {
    check_section(line, section);
    if (body.kind == YamlNode::Kind::kNull) return;  // all its keys are commented out
    if (body.kind != YamlNode::Kind::kMap) {
      throw bad_input(fmt::format("{}: {}", line, section),
                      fmt::format("expected a section with keys, found {}", shown_node(body)),
                      fmt::format("keys of {}: {}", section, fmt::join(names().find(section)->keys, ", ")));
    }
    for_each_entry(body, file, section + ".",
                   [&](const std::string& key, const std::string& key_line, const YamlNode& value) {
                     check_key(fmt::format("{}: {}", key_line, section), section, key);
                     const auto place = fmt::format("{}: {}.{}", key_line, section, key);
                     set(config, section, key, value, Origin::kFile, place, file);
                   });
  });
}

void apply_override(Config& config, const std::string& option) {
  const std::string place = fmt::format("--set {}", shown(option));
  const auto equals = option.find('=');
  const auto dot = option.find('.');
  if (equals == std::string::npos || dot == std::string::npos || dot > equals) {
    throw bad_input(place, "expected section.key=value");
  }
  if (!is_text(option)) throw bad_input(place, "is not UTF-8 text");
  const std::string section = option.substr(0, dot);
  const std::string key = option.substr(dot + 1, equals - dot - 1);
  check_section(place, section);
  check_key(place, section, key);
  YamlNode node;
  node.kind = YamlNode::Kind::kScalar;
  node.text = option.substr(equals + 1);
  set(config, section, key, node, Origin::kOption, place, place);
}

// A text of YAML and its name in errors.
struct Document {
  YamlNode root;
  std::string place;
};

Config build(const std::vector<Document>& documents, const std::vector<std::string>& overrides) {
  const auto apply = [&](Config& config) {
    for (const Document& document : documents) apply_document(config, document.root, document.place);
    for (const auto& option : overrides) apply_override(config, option);
  };
  // Everything is read twice: first for the recipe, then over the recipe's values, so that a key that is given wins.
  Config first;
  apply(first);
  Config config;
  apply_recipe(first.tuning.recipe, config);
  apply(config);
  require_keys(config, {"model.path"}, documents.front().place);
  return config;
}

}  // namespace

Config parse_config(const std::string& text, const std::string& place, const std::vector<std::string>& overrides) {
  return build({{parse_yaml(text, place), place}}, overrides);
}

Config load_config(const std::string& path, const std::vector<std::string>& overrides,
                   const std::string& cluster_file) {
  std::vector<Document> documents;
  for (const std::string& file : {path_from_user(path, "CONFIG"), path_from_user(cluster_file, "--cluster")}) {
    if (!file.empty()) documents.push_back({parse_yaml(read_file(file), file), file});
  }
  return build(documents, overrides);
}

}  // namespace roundtable
