// The keys of model.json, and the order of the checks.
#include "graph/format/read_manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/pattern.h"
#include "base/text.h"
#include "graph/format/checks.h"
#include "graph/format/limits.h"
#include "graph/format/products.h"
#include "graph/format/read_part.h"
#include "graph/format/strict_json.h"

namespace roundtable {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "roundtable-graph";
constexpr std::int64_t kVersion = 1;
constexpr std::size_t kMaxUntouched = kMaxTensors;

void check_format(const json& root, const std::string& path) {
  const JsonObject object(json{{"format", root.value("format", json())}, {"version", root.value("version", json())}},
                          path);
  if (object.get_string("format") != kFormat) object.fail("format", "is not a graph's", kExportAgain);
  if (object.get_int("version") != kVersion) {
    object.fail("version", fmt::format("is not {}, the one that this program reads", kVersion), kExportAgain);
  }
}

void check_digest(const JsonObject& object) {
  const std::string digest = object.get_string("config_sha256");
  const bool hex = std::all_of(digest.begin(), digest.end(),
                               [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
  if (digest.size() != 64 || !hex) object.fail("config_sha256", "must be 64 hex digits", kExportAgain);
}

void read_scalars(const JsonObject& object, GraphManifest& manifest) {
  object.expect_keys({"format",   "version", "torch", "transformers", "config_sha256", "model_type", "architecture",
                      "own_code", "seqlen",  "dtype", "vocab_size",   "batch",         "boundary",   "operators",
                      "embed",    "head",    "kinds", "blocks",       "untouched",     "check",
                      "ignored", "head_name", "max_positions", "text_config"});
  manifest.torch = get_name(object, "torch");
  manifest.transformers = get_name(object, "transformers");
  check_digest(object);
  manifest.config_sha256 = object.get_string("config_sha256");
  manifest.model_type = get_name(object, "model_type");
  manifest.architecture = get_name(object, "architecture");
  manifest.own_code = object.get_bool("own_code");
  manifest.seqlen = object.get_int("seqlen", 1, kMaxSize);
  manifest.dtype = get_word<c10::ScalarType>(object, "dtype",
                                             {{"float32", c10::ScalarType::Float},
                                              {"bfloat16", c10::ScalarType::BFloat16},
                                              {"float16", c10::ScalarType::Half}});
  manifest.vocab_size = object.get_int("vocab_size", 1, kMaxSize);
  manifest.batch = object.get_int("batch", 0, kMaxSize);
  if (object.has("head_name")) manifest.head_name = get_name(object, "head_name");
  if (object.has("max_positions")) manifest.max_positions = object.get_int("max_positions", 1, kMaxSize);
  if (object.has("text_config")) manifest.text_config = get_name(object, "text_config");
  const JsonObject check = object.get_object("check");
  check.expect_keys({"output", "gradient"});
  manifest.check_output = check.get_double("output", 0);
  manifest.check_gradient = check.get_double("gradient", 0);
}

void read_boundary(const json& boundary, GraphManifest& manifest) {
  const std::string place = manifest.path + ": boundary";
  for_each_member(boundary, kMaxParameters, place, [&](const std::string& name, const json& spec) {
    manifest.boundary[name] = read_graph_tensor_spec(spec, fmt::format("{}['{}']", place, name));
  });
  const auto hidden = manifest.boundary.find("hidden");
  if (hidden == manifest.boundary.end()) throw bad_input(place, "has no 'hidden'", kExportAgain);
  const std::vector<std::int64_t>& shape = hidden->second.shape;
  if (shape.size() < 2 || shape.front() != manifest.seqlen) {
    throw bad_input(place + "['hidden']", "its shape must begin with seqlen and have two dimensions or more",
                    kExportAgain);
  }
}

GraphBlock read_block(json value, const std::string& place) {
  const JsonObject object(std::move(value), place);
  object.expect_keys({"prefix", "kind", "takes", "gives"});
  GraphBlock block;
  block.prefix = object.get_string("prefix");
  if (!block.prefix.empty()) check_name(block.prefix, place + ": key 'prefix'");
  block.kind = static_cast<std::size_t>(object.get_int("kind", 0, kMaxKinds));
  block.takes = read_names(object.get_object("takes").json(), kMaxParameters, place + ": key 'takes'");
  block.gives = read_names(object.get_object("gives").json(), kMaxParameters, place + ": key 'gives'");
  return block;
}

void check_part(const GraphPart& part, const GraphManifest& manifest) {
  check_values(part);
  check_operators(part, manifest.operators);
  check_tensors(part);
  products_of(part);
}

}  // namespace

GraphManifest read_manifest(const std::string& folder) {
  const std::string path = folder + "/model.json";
  return parse_manifest(load_json(path), path);
}

GraphManifest parse_manifest(json root, const std::string& path) {
  GraphManifest manifest;
  manifest.path = path;
  if (!root.is_object()) throw bad_input(manifest.path, "must be a JSON object", kExportAgain);
  check_format(root, manifest.path);
  std::vector<json> kinds = take_list(root, "kinds", kMaxKinds, manifest.path);
  std::vector<json> blocks = take_list(root, "blocks", kMaxBlocks, manifest.path);
  const std::vector<json> untouched = take_list(root, "untouched", kMaxUntouched, manifest.path);
  const std::vector<json> ignored =
      root.contains("ignored") ? take_list(root, "ignored", kMaxUntouched, manifest.path) : std::vector<json>();
  json embed = take(root, "embed", manifest.path);
  json head = take(root, "head", manifest.path);
  const json boundary = take(root, "boundary", manifest.path);
  manifest.operators =
      read_names(take(root, "operators", manifest.path), kMaxParameters, manifest.path + ": operators");
  read_scalars(JsonObject(std::move(root), manifest.path), manifest);
  read_boundary(boundary, manifest);
  manifest.embed = read_part(std::move(embed), PartRole::kEmbed, manifest.path + ": embed");
  manifest.head = read_part(std::move(head), PartRole::kHead, manifest.path + ": head");
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    manifest.kinds.push_back(
        read_part(std::move(kinds[i]), PartRole::kKind, fmt::format("{}: kinds[{}]", manifest.path, i)));
  }
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    manifest.blocks.push_back(read_block(std::move(blocks[i]), fmt::format("{}: blocks[{}]", manifest.path, i)));
  }
  for (const json& name : untouched) {
    if (!name.is_string()) throw bad_input(manifest.path + ": untouched", "must hold names", kExportAgain);
    check_name(name.get<std::string>(), manifest.path + ": untouched");
    manifest.untouched.push_back(name.get<std::string>());
  }
  for (const json& pattern : ignored) {
    if (!pattern.is_string()) throw bad_input(manifest.path + ": ignored", "must hold regular expressions", kExportAgain);
    manifest.ignored.push_back(pattern.get<std::string>());
    Pattern(manifest.ignored.back(), manifest.path + ": ignored");
  }
  check_part(manifest.embed, manifest);
  check_part(manifest.head, manifest);
  for (const GraphPart& kind : manifest.kinds) check_part(kind, manifest);
  check_flow(manifest);
  return manifest;
}

}  // namespace roundtable
