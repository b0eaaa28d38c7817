// An argument as the dispatcher takes it, converted once by the type that the operator's schema has.
#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>
#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "graph/format/argument.h"

namespace roundtable {

// What a value of a graph is.
enum class ValueType : std::uint8_t { kTensor, kInt };

struct Operand {
  c10::IValue constant;     // where it is no value and no list of values
  std::int64_t value = -1;  // of the graph
  enum class As : std::uint8_t { kItself, kFloat, kTensor } as = As::kItself;  // a conversion of an int
  bool last = false;                                                           // nothing takes the value after this
  bool is_list = false;
  std::vector<Operand> parts{};  // of a list that holds values
  c10::TypePtr element{};        // of that list

  // Moves a value out of `values` if this is its last use.
  c10::IValue take(std::vector<c10::IValue>& values) const;
};

// Throws bad input that begins with `place` where `argument` is not what `formal` takes. `types` is of all values.
Operand operand_of(const Argument& argument, const c10::Argument& formal, const std::vector<ValueType>& types,
                   torch::Device device, const std::string& place);

// The operand of an argument that the file leaves out. Throws if there is no default.
Operand default_operand(const c10::Argument& formal, const std::string& place);

// The same for arguments of int:: operators: ints.
Operand int_operand(const Argument& argument, const std::vector<ValueType>& types, const std::string& place);

}  // namespace roundtable
