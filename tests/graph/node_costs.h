// `bytes` and `flops` of a graph's nodes as the exporter counts them (launch/graph_export/cost.py), found by running
// the graph on one sample of zeros.
#pragma once

#include <torch/types.h>
#include <torch/utils.h>

#include <set>

#include "graph/run/program.h"
#include "tests/graph/graph_builder.h"

namespace roundtable::testing {

// All tensors of a part by value, of one sample.
inline std::map<std::int64_t, torch::Tensor> values_of(const GraphManifest& manifest, const GraphPart& part,
                                                       const TensorsByName& constants) {
  TensorsByName parameters;
  for (const auto& [name, spec] : part.parameters) parameters[name] = torch::zeros(spec.shape, spec.dtype);
  GraphTensors in{torch::zeros(manifest.boundary.at("hidden").shape, manifest.dtype).unsqueeze(0),
                  torch::zeros({1, manifest.seqlen}, torch::kInt64),
                  {}};
  GraphPart open = part;  // gives every tensor that it makes
  open.outputs.clear();
  for (const GraphNode& node : part.nodes) {
    if (node.op.starts_with("int::") || node.op.starts_with("aten::sym_size")) continue;
    for (const auto& value : node.out) open.outputs.push_back({*value, OutputKind::kCarried, std::to_string(*value)});
  }
  const torch::NoGradGuard no_gradients;
  std::map<std::int64_t, torch::Tensor> values;
  for (const auto& [name, tensor] : Program(open, constants, torch::kCPU).forward(in, parameters).carried) {
    values[std::stol(name)] = tensor;
  }
  for (const GraphInput& input : part.inputs) {
    if (input.kind == InputKind::kHidden) values[input.value] = in.hidden;
    if (input.kind == InputKind::kParameter) values[input.value] = parameters.at(input.name);
    if (input.kind == InputKind::kConstant) values[input.value] = constants.at(input.name);
  }
  return values;
}

inline std::int64_t flops_of(const GraphNode& node, const std::map<std::int64_t, torch::Tensor>& values) {
  const auto argument = [&](std::size_t i) { return values.at(*node.args.at(i).value()); };
  if (node.op == "aten::linear" || node.op == "rt::expert_linear") {
    return 2 * values.at(*node.out[0]).numel() * argument(0).size(-1);
  }
  if (node.op != "rt::attention") return 0;
  const torch::Tensor q = argument(0);
  return 2 * q.size(1) * q.size(2) * argument(1).size(2) * (q.size(3) + argument(2).size(3));
}

// Writes them into the kinds of `files`.
inline void measure_costs(GraphFiles& files) {
  const GraphManifest manifest = manifest_of(files);
  for (std::size_t kind = 0; kind < manifest.kinds.size(); ++kind) {
    const GraphPart& part = manifest.kinds[kind];
    const auto values = values_of(manifest, part, files.constants);
    std::set<const void*> seen;  // memory that is there already
    for (const GraphInput& input : part.inputs) seen.insert(values.at(input.value).storage().data());
    for (std::size_t i = 0; i < part.nodes.size(); ++i) {
      std::int64_t bytes = 0;
      for (const auto& value : part.nodes[i].out) {
        const auto made = values.find(*value);
        if (made == values.end() || !seen.insert(made->second.storage().data()).second) continue;
        bytes += static_cast<std::int64_t>(made->second.nbytes());
      }
      json& node = files.model["kinds"][kind]["nodes"][i];
      node["bytes"] = bytes;
      node["flops"] = flops_of(part.nodes[i], values);
    }
  }
}

}  // namespace roundtable::testing
