// What the passes ask about a graph.
#pragma once

#include <initializer_list>
#include <optional>
#include <string_view>
#include <vector>

#include "graph/format/manifest.h"
#include "graph/format/sharing.h"

namespace roundtable {

class PatternGraph {
 public:
  PatternGraph(const GraphPart& part, c10::ScalarType dtype);

  // The node that made this argument of `user`, if it is one of the operators and can move to where `user` is: nothing
  // writes into what it takes or gives, and autograd is on for both or off for both.
  const GraphNode* maker(const GraphNode& user, const Argument& argument,
                         std::initializer_list<std::string_view> ops) const;
  bool is_parameter(const Argument& argument) const;
  bool is_safe(const GraphNode& node) const;
  c10::ScalarType dtype() const { return dtype_; }  // of the model

 private:
  std::vector<const GraphNode*> made_by_;  // by value
  std::vector<bool> parameter_;
  mutable Sharing sharing_;
  c10::ScalarType dtype_;
};

// The argument's number, or nothing where it is none.
std::optional<double> number(const Argument& argument);
bool is_number(const GraphNode& node, std::size_t argument, double wanted);
bool same_value(const Argument& a, const Argument& b);

// A conversion of the dtype of `from`: x.to(dtype) or x.type_as(other).
struct Cast {
  const GraphNode* node;
  Argument from;
  std::optional<c10::ScalarType> dtype;  // nothing: that of `like`
  std::optional<Argument> like;
};
std::optional<Cast> cast_of(const GraphNode& node);

// The passes: the fused node's operator and arguments, or nothing.
struct Fused {
  std::string op;
  std::vector<Argument> args;
};
std::optional<Fused> fused_norm_of(const PatternGraph& graph, const GraphNode& node);
std::optional<Fused> fused_rope_of(const PatternGraph& graph, const GraphNode& node);
std::optional<Fused> fused_gelu_of(const PatternGraph& graph, const GraphNode& node);
std::optional<Fused> fused_gate_of(const PatternGraph& graph, const GraphNode& node);

}  // namespace roundtable
