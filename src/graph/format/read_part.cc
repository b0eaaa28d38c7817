// Inputs, nodes, outputs, parameters and tensors of one graph.
#include "graph/format/read_part.h"

#include <fmt/format.h>

#include <utility>

#include "base/error.h"
#include "graph/format/limits.h"
#include "graph/format/strict_json.h"

namespace roundtable {

std::string GraphPart::place_of(const GraphNode& node) const {
  return fmt::format("{}.nodes[{}] ({})", place, node.index, node.op);
}

void refuse_graph(const std::string& place, const std::string& problem, const std::string& fix) {
  throw bad_input(place, problem, fix);
}

namespace {

using nlohmann::json;

std::string element(const std::string& place, const char* list, std::size_t i) {
  return fmt::format("{}.{}[{}]", place, list, i);
}

GraphInput read_input(json value, std::int64_t values, const std::string& place) {
  static const std::vector<std::pair<const char*, InputKind>> kKinds = {{"hidden", InputKind::kHidden},
                                                                        {"tokens", InputKind::kTokens},
                                                                        {"carried", InputKind::kCarried},
                                                                        {"parameter", InputKind::kParameter},
                                                                        {"constant", InputKind::kConstant}};
  const JsonObject object(std::move(value), place);
  GraphInput input;
  input.kind = get_word(object, "kind", kKinds);
  input.value = object.get_int("value", 0, values - 1);
  const bool named = input.kind != InputKind::kHidden && input.kind != InputKind::kTokens;
  const bool constant = input.kind == InputKind::kConstant;
  object.expect_keys(constant ? std::vector<std::string>{"value", "kind", "name", "complex"}
                     : named  ? std::vector<std::string>{"value", "kind", "name"}
                              : std::vector<std::string>{"value", "kind"});
  if (named) input.name = get_name(object, "name");
  if (constant) input.is_complex = object.get_bool_or("complex", false);
  return input;
}

GraphOutput read_output(json value, std::int64_t values, const std::string& place) {
  static const std::vector<std::pair<const char*, OutputKind>> kKinds = {
      {"hidden", OutputKind::kHidden}, {"logits", OutputKind::kLogits}, {"carried", OutputKind::kCarried}};
  const JsonObject object(std::move(value), place);
  GraphOutput output;
  output.kind = get_word(object, "kind", kKinds);
  output.value = object.get_int("value", 0, values - 1);
  const bool carried = output.kind == OutputKind::kCarried;
  object.expect_keys(carried ? std::vector<std::string>{"value", "kind", "name"}
                             : std::vector<std::string>{"value", "kind"});
  if (carried) output.name = get_name(object, "name");
  return output;
}

std::optional<std::int64_t> read_result(const json& value, std::int64_t values, const std::string& place) {
  if (value.is_null()) return std::nullopt;
  const bool known = value.is_number_unsigned() && value.get<std::uint64_t>() < static_cast<std::uint64_t>(values);
  if (!known) throw bad_input(place, fmt::format("out must hold null and values below {}", values), kExportAgain);
  return value.get<std::int64_t>();
}

GraphNode read_node(json value, std::int64_t values, std::size_t index, const std::string& place) {
  if (!value.is_object()) throw bad_input(place, "must be an object", kExportAgain);
  GraphNode node;
  node.index = index;
  const std::vector<json> args = take_list(value, "args", kMaxArguments, place);
  const std::vector<json> out = take_list(value, "out", kMaxResults, place);
  for (std::size_t i = 0; i < args.size(); ++i) {
    node.args.push_back(read_argument(args[i], values, element(place, "args", i)));
  }
  for (const json& result : out) node.out.push_back(read_result(result, values, place));
  const JsonObject object(std::move(value), place);
  object.expect_keys({"op", "args", "out", "bytes", "flops", "no_grad"});
  node.op = get_name(object, "op");
  node.bytes = object.get_int("bytes", 0);
  node.flops = object.get_int("flops", 0);
  node.no_grad = object.get_bool_or("no_grad", false);
  return node;
}

DiskTensor read_disk_tensor(json value, const std::string& place) {
  static const std::vector<std::pair<const char*, TensorUse>> kUses = {
      {"linear", TensorUse::kLinear},           {"router", TensorUse::kRouter},       {"kept", TensorUse::kKept},
      {"convolution", TensorUse::kConvolution}, {"embedding", TensorUse::kEmbedding}, {"other", TensorUse::kOther}};
  const JsonObject object(std::move(value), place);
  object.expect_keys({"disk", "param", "offset", "shape", "stride", "use", "in_out", "expert"});
  DiskTensor tensor;
  tensor.disk = get_name(object, "disk");
  tensor.param = get_name(object, "param");
  tensor.offset = object.get_int("offset", 0, kMaxElements);
  tensor.shape = get_shape(object, "shape");
  tensor.stride = object.get_ints("stride", 0, kMaxElements);
  tensor.use = get_word(object, "use", kUses);
  tensor.in_out = object.get_bool_or("in_out", false);
  if (object.has("expert")) tensor.expert = object.get_int("expert", 0, kMaxSize);
  if (tensor.stride.size() != tensor.shape.size()) {
    object.fail("stride", "must have as many numbers as the shape", kExportAgain);
  }
  const bool product =
      tensor.use == TensorUse::kLinear || tensor.use == TensorUse::kRouter || tensor.use == TensorUse::kKept;
  if (tensor.in_out && !product) object.fail("in_out", "is for linear layers alone", kExportAgain);
  return tensor;
}

}  // namespace

GraphPart read_part(json value, PartRole role, const std::string& place) {
  if (!value.is_object()) throw bad_input(place, "must be an object", kExportAgain);
  GraphPart part;
  part.place = place;
  part.role = role;
  std::vector<json> inputs = take_list(value, "inputs", kMaxNodes, place);
  std::vector<json> nodes = take_list(value, "nodes", kMaxNodes, place);
  std::vector<json> outputs = take_list(value, "outputs", kMaxNodes, place);
  std::vector<json> tensors = take_list(value, "tensors", kMaxTensors, place);
  const json parameters = take(value, "parameters", place);
  const JsonObject object(std::move(value), place);
  object.expect_keys({"inputs", "nodes", "outputs", "values", "parameters", "tensors"});
  part.values = object.get_int("values", 1, kMaxNodes);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    part.inputs.push_back(read_input(std::move(inputs[i]), part.values, element(place, "inputs", i)));
  }
  part.nodes.reserve(nodes.size());
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    part.nodes.push_back(read_node(std::move(nodes[i]), part.values, i, element(place, "nodes", i)));
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    part.outputs.push_back(read_output(std::move(outputs[i]), part.values, element(place, "outputs", i)));
  }
  for_each_member(parameters, kMaxParameters, place + ".parameters", [&](const std::string& name, const json& spec) {
    part.parameters[name] = read_graph_tensor_spec(spec, fmt::format("{}.parameters['{}']", place, name));
  });
  part.tensors.reserve(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    part.tensors.push_back(read_disk_tensor(std::move(tensors[i]), element(place, "tensors", i)));
  }
  return part;
}

}  // namespace roundtable
