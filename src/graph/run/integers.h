// The int:: operators: arithmetic on sizes that depend on the batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace roundtable {

// How many arguments the operator "int::add" takes; nothing for one that there is not.
std::optional<std::size_t> int_arguments(const std::string& op);

// Throws c10::Error on a division by zero and on results beyond 64 bits.
std::int64_t int_result(const std::string& op, const std::vector<std::int64_t>& args);

}  // namespace roundtable
