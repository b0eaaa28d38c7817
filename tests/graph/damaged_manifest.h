// A small valid graph, and ways to break it.
#pragma once

#include <gtest/gtest.h>

#include <functional>

#include "tests/graph/graph_builder.h"
#include "tests/io/throws_error.h"

namespace roundtable::testing {

// Nodes: 0 linear, 1 an in-place sum into it, 2 a split in two, 3 a size, 4 int::mul, 5 new_zeros of that size, 6 cat,
// 7 a sum with the constant, 8 a sum with the carried tensor, 9 one that nobody takes, so that 8 may be replaced.
inline PartBuilder small_kind() {
  PartBuilder kind;
  const json hidden = kind.input("hidden");
  const json weight = kind.parameter("proj.weight", {8, 8}, "linear");
  const json bias = kind.parameter("proj.bias", {8});
  const json table = kind.input("constant", "c0");
  const json seen = kind.input("carried", "seen");
  const json y = kind.call("aten::linear", {hidden, weight, bias});
  const json sum = kind.call("aten::add_.Tensor", {y, 1.5});
  const auto halves = kind.call_all("aten::split.Tensor", {sum, 4, -1}, 2);
  const json batch = kind.call("aten::sym_size.int", {hidden, 0});
  const json wide = kind.call("int::mul", {batch, 1});
  const json zeros = kind.call("aten::new_zeros", {sum, json::array({wide, 4, 4})});
  const json both = kind.call("aten::cat", {json::array({halves[1], zeros}), -1});
  const json moved = kind.call("aten::add.Tensor", {both, table});
  kind.output(kind.call("aten::add.Tensor", {moved, seen}));
  kind.call("aten::neg", {seen});
  return kind;
}

inline GraphFiles small_model() {
  GraphFiles files = model_of(small_kind(), {4, 8});
  files.constants["c0"] = torch::ones({4, 8});
  json& model = files.model;
  model["boundary"]["mask"] = {{"shape", {4, 8}}, {"dtype", "float32"}};
  model["embed"]["outputs"].push_back({{"value", 2}, {"kind", "carried"}, {"name", "mask"}});
  model["blocks"][0]["takes"] = {{"seen", "mask"}};
  return files;
}
struct Fault {
  const char* name;
  std::function<void(json&)> damage;
  std::vector<const char*> line;  // what the error holds
};

inline json& kind_of(json& model) { return model["kinds"][0]; }
inline json& node(json& model, int i) { return model["kinds"][0]["nodes"][i]; }

// Another operator in the place of the sum, node 8.
inline void set_call(json& model, const std::string& op, std::vector<json> args) {
  node(model, 8)["op"] = op;
  node(model, 8)["args"] = std::move(args);
  model["operators"][op] = schema_text(op);
}

inline json value(int id) { return {{"v", id}}; }
// Puts `to` where the path of keys and places of lists leads.
inline std::function<void(json&)> set(std::vector<std::string> path, json to) {
  return [path, to](json& model) {
    json* at = &model;
    for (const std::string& key : path) at = at->is_array() ? &(*at)[std::stoul(key)] : &(*at)[key];
    *at = to;
  };
}

// Each of the damaged manifests is refused, in a line that holds what its fault says.
inline void expect_refused(const std::vector<Fault>& faults) {
  const TemporaryFolder folder;
  for (const Fault& fault : faults) {
    SCOPED_TRACE(fault.name);
    GraphFiles files = small_model();
    fault.damage(files.model);
    const std::string path = files.write(folder);
    for (const char* text : fault.line) EXPECT_BAD_INPUT(read_manifest(path), ::testing::HasSubstr(text));
    EXPECT_BAD_INPUT(read_manifest(path), ::testing::HasSubstr("model.json"));
  }
}

}  // namespace roundtable::testing
