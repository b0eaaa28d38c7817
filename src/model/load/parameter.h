// The names and shapes of a model's parameters, as its checkpoint and our computation know them.
#pragma once

#include <cstdint>
#include <functional>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

namespace roundtable {

// Where a matrix lies in a tensor of the checkpoint that holds one for each expert, experts first.
struct StackPlace {
  std::string name;         // of the whole: "mlp.experts.gate_up_proj"
  std::int64_t index = 0;   // of the expert
  std::int64_t experts = 1;
  bool by_turns = false;    // the experts have rows of gate and up by turns; else all of gate before all of up
};

// Name and shape of a parameter as we compute with it.
struct ParameterSpec {
  std::string name;                 // "self_attn.q_proj.weight"; below a block's name, or the full one
  std::vector<std::int64_t> shape;
  bool transposed = false;          // the file holds it the other way round, [in, out]
  std::optional<StackPlace> stack = std::nullopt;  // the file has no tensor `name`: it is a part of this one

  // Of the tensor `name`; of a part, without the experts.
  std::vector<std::int64_t> stored_shape() const {
    return transposed ? std::vector<std::int64_t>(shape.rbegin(), shape.rend()) : shape;
  }
  std::int64_t elements() const {
    return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  }
  // The tensor of the file that it is in.
  const std::string& tensor() const { return stack ? stack->name : name; }
  // The same with `prefix` before its names.
  ParameterSpec below(const std::string& prefix) const {
    ParameterSpec full = *this;
    full.name = prefix + name;
    if (stack) full.stack->name = prefix + stack->name;
    return full;
  }
};

// A linear layer.
struct LinearSpec {
  std::string name;                 // "self_attn.q_proj", "mlp.experts.3.up_proj"
  std::int64_t out = 0;
  std::int64_t in = 0;
  bool transposed = false;          // as in ParameterSpec
  std::int64_t expert = -1;         // that it belongs to; -1: every token passes it
  std::optional<StackPlace> stack = std::nullopt;  // of its weight

  ParameterSpec weight() const { return {name + ".weight", {out, in}, transposed, stack}; }
  LinearSpec below(const std::string& prefix) const {
    LinearSpec full = *this;
    full.name = prefix + name;
    if (stack) full.stack->name = prefix + stack->name;
    return full;
  }
};

}  // namespace roundtable
