// Which operators a graph may name, and whether it calls them rightly.
//
// A graph comes from a file that anyone may have written. Its operators compute new tensors from the ones that they are
// given: none that touches files, draws random numbers, writes into an input of the graph, or changes what a tensor is.
// Operators whose name begins with an underscore are LibTorch's own, and some of them trust their arguments, so that
// only those are let in that the export is known to produce.
#include <ATen/core/jit_type.h>
#include <fmt/format.h>

#include <algorithm>
#include <sstream>
#include <string_view>

#include "base/text.h"
#include "graph/format/checks.h"
#include "graph/format/sharing.h"
#include "graph/run/integers.h"
#include "graph/run/operand.h"
#include "graph/run/operator_lookup.h"

namespace roundtable {
namespace {

constexpr std::string_view kPrivateAllowed[] = {"aten::_softmax",     "aten::_log_softmax", "aten::_to_copy",
                                                "aten::_unsafe_view", "aten::_grouped_mm",  "aten::__and__",
                                                "aten::__or__",       "aten::__xor__"};
constexpr std::string_view kDenied[] = {"aten::from_file",
                                        "aten::set_data",
                                        "aten::requires_grad_",
                                        "aten::retain_grad",
                                        "aten::record_stream",
                                        "aten::pin_memory",
                                        "aten::resize",
                                        "aten::set",
                                        "aten::sparse_resize_",
                                        "aten::sparse_resize_and_clear_",
                                        "aten::copy_sparse_to_sparse_"};

template <std::size_t kN>
bool is_one_of(const std::string_view (&names)[kN], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

class OperatorCheck {
 public:
  OperatorCheck(const GraphPart& part, const std::map<std::string, std::string>& schemas)
      : part_(part), schemas_(schemas), types_(static_cast<std::size_t>(part.values)) {}

  void run() {
    for (const GraphNode& node : part_.nodes) {
      place_ = part_.place_of(node);
      const auto schema = schemas_.find(node.op);
      if (schema == schemas_.end()) refuse_graph(place_, "'operators' does not name it");
      if (node.op.starts_with("int::")) {
        check_int(node, schema->second);
      } else {
        check_call(node, schema->second);
      }
    }
    check_writes();
    for (const GraphOutput& output : part_.outputs) {
      if (types_[static_cast<std::size_t>(output.value)] != ValueType::kTensor) {
        refuse_graph(part_.place + ".outputs", fmt::format("value {} is no tensor", output.value));
      }
    }
  }

 private:
  void check_int(const GraphNode& node, const std::string& schema) {
    const auto wanted = int_arguments(node.op);
    if (!wanted) refuse_graph(place_, "there is no such operator");
    if (!schema.empty()) refuse_graph(place_, "int:: operators have no schema");
    if (node.args.size() != *wanted || node.out.size() != 1) {
      refuse_graph(place_, fmt::format("it takes {} ints and gives one", *wanted));
    }
    for (const Argument& arg : node.args) int_operand(arg, types_, place_);
    if (node.out[0]) types_[static_cast<std::size_t>(*node.out[0])] = ValueType::kInt;
  }

  void check_call(const GraphNode& node, const std::string& written) {
    const std::string name = node.op.substr(0, node.op.find('.'));
    check_name(name);
    const auto found = find_operator(node.op);
    if (!found)
      refuse_graph(place_, "this LibTorch has no such operator", "export the model with the torch of this program");
    const c10::FunctionSchema& schema = found->schema();
    std::ostringstream own;
    own << schema;
    if (own.str() != written) {
      refuse_graph(
          place_, fmt::format("its schema is {} in the file and {} in this LibTorch", shown(written), shown(own.str())),
          "export the model with the torch of this program");
    }
    check_effects(*found, node, name);
    check_arguments(schema, node);
    check_results(schema, node);
  }

  void check_name(const std::string& name) const {
    if (!name.starts_with("aten::") && !name.starts_with("rt::"))
      refuse_graph(place_, "only aten::, rt:: and int:: are allowed");
    const bool is_private = name.starts_with("aten::_");
    if ((is_private && !is_one_of(kPrivateAllowed, name)) || is_one_of(kDenied, name)) {
      refuse_graph(place_, "a graph may not call it");
    }
  }

  void check_effects(const c10::OperatorHandle& op, const GraphNode& node, const std::string& name) {
    if (op.hasTag(at::Tag::nondeterministic_seeded) && !is_attention_without_dropout(node, name)) {
      refuse_graph(place_, "it draws random numbers");
    }
    if (op.hasTag(at::Tag::inplace_view)) refuse_graph(place_, "it changes what a tensor is");
    const auto& formals = op.schema().arguments();
    for (std::size_t i = 0; i < formals.size(); ++i) {
      if (!is_write(formals[i]) || (i == 0 && name.ends_with('_'))) continue;
      refuse_graph(place_, "it writes into an argument that is not its first");
    }
  }

  // After all nodes are known to be sound.
  void check_writes() {
    Sharing sharing(part_);
    for (const GraphNode& node : part_.nodes) {
      if (!writes(node)) continue;
      node.args[0].for_each_value([&](std::int64_t value) {
        if (sharing.with_an_input(value)) refuse_graph(part_.place_of(node), "it writes into an input of the graph");
      });
    }
  }

  // dropout_p of scaled_dot_product_attention, at place 4, is 0 unless the file says so.
  static bool is_attention_without_dropout(const GraphNode& node, const std::string& name) {
    if (name != "aten::scaled_dot_product_attention") return false;
    if (node.args.size() < 5) return true;
    const auto* real = std::get_if<double>(&node.args[4].is);
    const auto* whole = std::get_if<std::int64_t>(&node.args[4].is);
    return (real != nullptr && *real == 0) || (whole != nullptr && *whole == 0);
  }

  void check_arguments(const c10::FunctionSchema& schema, const GraphNode& node) const {
    const auto& formals = schema.arguments();
    if (node.args.size() > formals.size())
      refuse_graph(place_, fmt::format("it takes {} arguments at most", formals.size()));
    for (std::size_t i = 0; i < formals.size(); ++i) {
      if (i < node.args.size()) {
        operand_of(node.args[i], formals[i], types_, torch::kCPU,
                   fmt::format("{}, argument '{}'", place_, formals[i].name()));
      } else {
        default_operand(formals[i], place_);
      }
    }
  }

  void check_results(const c10::FunctionSchema& schema, const GraphNode& node) {
    const bool list = gives_list(schema);
    if (!list && node.out.size() != schema.returns().size()) {
      refuse_graph(place_,
                   fmt::format("it gives {} results, and 'out' has {}", schema.returns().size(), node.out.size()));
    }
    for (std::size_t i = 0; i < node.out.size(); ++i) {
      const c10::TypePtr& type = schema.returns()[list ? 0 : i].type();
      const c10::TypeKind kind = list ? type->castRaw<c10::ListType>()->getElementType()->kind() : type->kind();
      if (kind != c10::TypeKind::TensorType && kind != c10::TypeKind::IntType) {
        refuse_graph(place_, fmt::format("it gives {}, and values are tensors or ints", type->repr_str()));
      }
      if (list && kind != c10::TypeKind::TensorType)
        refuse_graph(place_, "it gives a list of something other than tensors");
      if (node.out[i] && kind == c10::TypeKind::IntType)
        types_[static_cast<std::size_t>(*node.out[i])] = ValueType::kInt;
    }
  }

  const GraphPart& part_;
  const std::map<std::string, std::string>& schemas_;
  std::vector<ValueType> types_;
  std::string place_;
};

}  // namespace

void check_operators(const GraphPart& part, const std::map<std::string, std::string>& operators) {
  OperatorCheck(part, operators).run();
}

}  // namespace roundtable
