// What model.json says, as structs: see ../FORMAT.md, whose words are used here. Everything in a GraphManifest that
// read_manifest() returned was checked.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "graph/format/argument.h"

namespace roundtable {

struct GraphTensorSpec {
  std::vector<std::int64_t> shape;
  c10::ScalarType dtype = c10::ScalarType::Float;
};

enum class InputKind { kHidden, kTokens, kCarried, kParameter, kConstant };

struct GraphInput {
  std::int64_t value = 0;
  InputKind kind = InputKind::kHidden;
  std::string name;
  bool is_complex = false;  // a constant that is stored as pairs
};

enum class OutputKind { kHidden, kLogits, kCarried };

struct GraphOutput {
  std::int64_t value = 0;
  OutputKind kind = OutputKind::kHidden;
  std::string name;
};

struct GraphNode {
  std::string op;  // "aten::add.Tensor"
  std::vector<Argument> args;
  std::vector<std::optional<std::int64_t>> out;
  std::int64_t bytes = 0;
  std::int64_t flops = 0;
  bool no_grad = false;
  std::size_t index = 0;  // in the file
};

enum class TensorUse { kLinear, kRouter, kKept, kConvolution, kEmbedding, kOther };

// A tensor on disk that is a strided view of a parameter.
struct DiskTensor {
  std::string disk;
  std::string param;
  std::int64_t offset = 0;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> stride;
  TensorUse use = TensorUse::kOther;
  bool in_out = false;
  std::optional<std::int64_t> expert;
};

enum class PartRole { kEmbed, kKind, kHead };

// One graph: what lies before the first block, a kind of block, or what lies behind the last.
struct GraphPart {
  std::string place;  // "model.json: kinds[1]", for errors
  PartRole role = PartRole::kKind;
  std::vector<GraphInput> inputs;
  std::vector<GraphNode> nodes;
  std::vector<GraphOutput> outputs;
  std::int64_t values = 0;
  std::map<std::string, GraphTensorSpec> parameters;
  std::vector<DiskTensor> tensors;

  std::string place_of(const GraphNode& node) const;  // "model.json: kinds[1].nodes[17] (aten::add.Tensor)"
};

struct GraphBlock {
  std::string prefix;
  std::size_t kind = 0;
  std::map<std::string, std::string> takes;  // the kind's name of a carried tensor -> that in `boundary`
  std::map<std::string, std::string> gives;
};

struct GraphManifest {
  std::string path;
  std::string torch;
  std::string transformers;
  std::string config_sha256;
  std::string model_type;
  std::string architecture;
  bool own_code = false;
  std::int64_t seqlen = 0;
  c10::ScalarType dtype = c10::ScalarType::Float;
  std::int64_t vocab_size = 0;
  std::int64_t batch = 0;  // 0: any
  std::map<std::string, GraphTensorSpec> boundary;
  std::map<std::string, std::string> operators;
  GraphPart embed;
  GraphPart head;
  std::vector<GraphPart> kinds;
  std::vector<GraphBlock> blocks;
  std::vector<std::string> untouched;
  std::vector<std::string> ignored;  // regular expressions
  std::string head_name;         // of a head that is tied to the embedding, if it were not; empty: it is not tied
  std::int64_t max_positions = 0;  // 0: the config names none
  std::string text_config;       // path in config.json of the text part, "text_config"; empty: the whole
  double check_output = 0;
  double check_gradient = 0;
};

// What a user does about a graph that is refused.
inline constexpr const char* kExportAgain = "export the model again with launch/export_model.py";

// Bad input with that fix.
[[noreturn]] void refuse_graph(const std::string& place, const std::string& problem,
                               const std::string& fix = kExportAgain);

}  // namespace roundtable
