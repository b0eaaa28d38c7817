// Operators of LibTorch's dispatcher by the names that graphs use.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>
#include <string>

namespace roundtable {

// "aten::add.Tensor" and our own rt:: operators; nothing where this LibTorch has none of that name.
std::optional<c10::OperatorHandle> find_operator(const std::string& name);

// Whether each result goes to a value of its own: all but for operators with one result, a list of tensors, whose
// elements go to values.
bool gives_list(const c10::FunctionSchema& schema);

}  // namespace roundtable
