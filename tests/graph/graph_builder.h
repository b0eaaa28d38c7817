// Writes graph folders for tests, node by node, as the export tool would.
#pragma once

#include <torch/types.h>
#include <torch/utils.h>

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "graph/format/read_manifest.h"
#include "graph/run/operator_lookup.h"
#include "io/safetensors.h"
#include "model/load/tensor_span.h"
#include "tests/io/temporary_folder.h"

namespace roundtable::testing {

using nlohmann::json;

// The schema as it is written into a graph; empty for int:: operators.
inline std::string schema_text(const std::string& op) {
  if (op.starts_with("int::")) return "";
  std::ostringstream text;
  const auto found = find_operator(op);
  RT_CHECK(found.has_value());
  text << found->schema();
  return text.str();
}

inline const char* dtype_name(torch::ScalarType dtype) {
  return dtype == torch::kBFloat16 ? "bfloat16" : dtype == torch::kFloat64 ? "float64" : "float32";
}

class PartBuilder {
 public:
  explicit PartBuilder(torch::ScalarType dtype = torch::kFloat32) : dtype_(dtype) {}

  json input(const std::string& kind, const std::string& name = "") {
    json input{{"value", values_}, {"kind", kind}};
    if (!name.empty()) input["name"] = name;
    part_["inputs"].push_back(input);
    return next();
  }

  // A parameter with one tensor on disk, all of it.
  json parameter(const std::string& name, std::vector<std::int64_t> shape, const std::string& use = "other",
                 bool in_out = false) {
    json entry = whole(name, name, shape, use);
    if (in_out) entry["in_out"] = true;
    part_["tensors"].push_back(entry);
    return bare_parameter(name, shape);
  }

  // A parameter whose tensors are added by tensor().
  json bare_parameter(const std::string& name, const std::vector<std::int64_t>& shape) {
    part_["parameters"][name] = {{"shape", shape}, {"dtype", dtype_name(dtype_)}};
    return input("parameter", name);
  }
  void tensor(const std::string& disk, const std::string& parameter, std::int64_t offset,
              const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& stride,
              const std::string& use = "linear") {
    json entry = whole(disk, parameter, shape, use);
    entry["offset"] = offset;
    entry["stride"] = stride;
    part_["tensors"].push_back(entry);
  }

  // A node with one result.
  json call(const std::string& op, std::vector<json> args, bool no_grad = false) {
    return call_all(op, std::move(args), 1, no_grad)[0];
  }
  std::vector<json> call_all(const std::string& op, std::vector<json> args, std::size_t results, bool no_grad = false) {
    operators_[op] = schema_text(op);
    json node{{"op", op}, {"args", std::move(args)}, {"out", json::array()}, {"bytes", 0}, {"flops", 0}};
    if (no_grad) node["no_grad"] = true;
    std::vector<json> out;
    for (std::size_t i = 0; i < results; ++i) {
      node["out"].push_back(values_);
      out.push_back(next());
    }
    part_["nodes"].push_back(node);
    return out;
  }

  void output(const json& value, const std::string& kind = "hidden", const std::string& name = "") {
    json output{{"value", value.at("v")}, {"kind", kind}};
    if (!name.empty()) output["name"] = name;
    part_["outputs"].push_back(output);
  }

  json part() const {
    json part = part_;
    part["values"] = values_;
    return part;
  }
  const std::map<std::string, std::string>& operators() const { return operators_; }
  torch::ScalarType dtype() const { return dtype_; }

 private:
  json next() { return {{"v", values_++}}; }
  static json whole(const std::string& disk, const std::string& parameter, const std::vector<std::int64_t>& shape,
                    const std::string& use) {
    std::vector<std::int64_t> stride(shape.size(), 1);
    for (std::size_t i = shape.size(); i-- > 1;) stride[i - 1] = stride[i] * shape[i];
    return {{"disk", disk}, {"param", parameter}, {"offset", 0}, {"shape", shape}, {"stride", stride}, {"use", use}};
  }

  torch::ScalarType dtype_;
  int values_ = 0;
  std::map<std::string, std::string> operators_;
  json part_{{"inputs", json::array()},
             {"nodes", json::array()},
             {"outputs", json::array()},
             {"parameters", json::object()},
             {"tensors", json::array()}};
};

struct GraphFiles {
  json model;
  TensorsByName constants;

  // Writes them into the folder, and returns its path.
  std::string write(const TemporaryFolder& folder) const {
    folder.put("model.json", model.dump());
    if (constants.empty()) return folder.path();
    std::vector<TensorView> views;
    for (const auto& [name, tensor] : constants) {
      views.push_back({name, element_type_of(tensor.scalar_type()), tensor.sizes().vec(), tensor.const_data_ptr()});
    }
    write_safetensors(folder.path() + "/constants.safetensors", views);
    return folder.path();
  }
};

// What lies around the blocks of a model.
struct Ends {
  PartBuilder embed;
  PartBuilder head;
  std::int64_t vocab = 16;
};

// An embedding and a head of 16 tokens.
inline Ends small_ends(torch::ScalarType dtype, std::int64_t width) {
  Ends ends{PartBuilder(dtype), PartBuilder(dtype)};
  const json table = ends.embed.parameter("embed.weight", {ends.vocab, width}, "embedding");
  ends.embed.output(ends.embed.call("aten::embedding", {table, ends.embed.input("tokens")}));
  const json weight = ends.head.parameter("lm_head.weight", {ends.vocab, width}, "linear");
  ends.head.output(ends.head.call("aten::linear", {ends.head.input("hidden"), weight}), "logits");
  return ends;
}

// What the reader makes of them. It reads text, whose integers without a sign are unsigned.
inline GraphManifest manifest_of(const GraphFiles& files) {
  return parse_manifest(json::parse(files.model.dump()), "model.json");
}

// A model of `blocks` blocks of one kind between `ends`. Blocks are "model.layers.N.".
inline GraphFiles model_of(const PartBuilder& kind, std::vector<std::int64_t> hidden, int blocks, const Ends& ends) {
  json operators = kind.operators();
  operators.update(json(ends.embed.operators()));
  operators.update(json(ends.head.operators()));
  json list = json::array();
  for (int i = 0; i < blocks; ++i) {
    list.push_back({{"prefix", "model.layers." + std::to_string(i) + "."},
                    {"kind", 0},
                    {"takes", json::object()},
                    {"gives", json::object()}});
  }
  return {{{"format", "roundtable-graph"},
           {"version", 1},
           {"torch", "2.13.0"},
           {"transformers", "5.23.0"},
           {"config_sha256", std::string(64, 'a')},
           {"model_type", "llama"},
           {"architecture", "LlamaForCausalLM"},
           {"own_code", false},
           {"seqlen", hidden.front()},
           {"dtype", dtype_name(kind.dtype())},
           {"vocab_size", ends.vocab},
           {"batch", 0},
           {"boundary", {{"hidden", {{"shape", hidden}, {"dtype", dtype_name(kind.dtype())}}}}},
           {"operators", operators},
           {"embed", ends.embed.part()},
           {"head", ends.head.part()},
           {"kinds", json::array({kind.part()})},
           {"blocks", list},
           {"untouched", json::array()},
           {"check", {{"output", 0.0}, {"gradient", 1e-7}}}},
          {}};
}

inline GraphFiles model_of(const PartBuilder& kind, const std::vector<std::int64_t>& hidden, int blocks = 1) {
  return model_of(kind, hidden, blocks, small_ends(kind.dtype(), hidden.back()));
}

// Random tensors for the parameters of a part.
inline TensorsByName random_parameters(const GraphPart& part, double scale = 0.2) {
  TensorsByName parameters;
  for (const auto& [name, spec] : part.parameters) {
    parameters[name] = (torch::randn(spec.shape) * scale).to(spec.dtype);
  }
  return parameters;
}

// |a - b| relative to b's size.
inline double relative_difference(const torch::Tensor& a, const torch::Tensor& b) {
  const torch::Tensor wide = b.to(torch::kFloat64);
  return ((a.to(torch::kFloat64) - wide).norm() / (wide.norm() + 1e-12)).item<double>();
}

}  // namespace roundtable::testing
