// floordiv and mod round down, as Python's do.
#include "graph/run/integers.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <map>

namespace roundtable {
namespace {

using Numbers = std::vector<std::int64_t>;

struct IntOperator {
  std::size_t arguments;
  std::function<std::int64_t(const Numbers&)> compute;
};

// The result of one of the compiler's operations that say whether a result overflows.
template <class Operation>
std::int64_t checked(const Operation& operation) {
  std::int64_t result = 0;
  TORCH_CHECK(!operation(&result), "the result does not fit 64 bits");
  return result;
}

void check_divisor(const Numbers& n) {
  TORCH_CHECK(n[1] != 0, "division by zero");
  TORCH_CHECK(n[1] != -1 || n[0] != std::numeric_limits<std::int64_t>::min(), "the result does not fit 64 bits");
}

std::int64_t floor_division(const Numbers& n) {
  check_divisor(n);
  const std::int64_t quotient = n[0] / n[1];
  return quotient - (n[0] % n[1] != 0 && (n[0] < 0) != (n[1] < 0) ? 1 : 0);
}

const std::map<std::string, IntOperator>& operators() {
  static const std::map<std::string, IntOperator> all = {
      {"int::add",
       {2,
        [](const Numbers& n) {
          return checked([&](std::int64_t* to) { return __builtin_add_overflow(n[0], n[1], to); });
        }}},
      {"int::sub",
       {2,
        [](const Numbers& n) {
          return checked([&](std::int64_t* to) { return __builtin_sub_overflow(n[0], n[1], to); });
        }}},
      {"int::mul",
       {2,
        [](const Numbers& n) {
          return checked([&](std::int64_t* to) { return __builtin_mul_overflow(n[0], n[1], to); });
        }}},
      {"int::floordiv", {2, floor_division}},
      {"int::mod", {2, [](const Numbers& n) { return n[0] - floor_division(n) * n[1]; }}},
      {"int::min", {2, [](const Numbers& n) { return std::min(n[0], n[1]); }}},
      {"int::max", {2, [](const Numbers& n) { return std::max(n[0], n[1]); }}},
      {"int::neg", {1, [](const Numbers& n) {
                      return checked(
                          [&](std::int64_t* to) { return __builtin_sub_overflow(std::int64_t{0}, n[0], to); });
                    }}}};
  return all;
}

}  // namespace

std::optional<std::size_t> int_arguments(const std::string& op) {
  const auto found = operators().find(op);
  return found == operators().end() ? std::nullopt : std::optional(found->second.arguments);
}

std::int64_t int_result(const std::string& op, const std::vector<std::int64_t>& args) {
  return operators().at(op).compute(args);
}

}  // namespace roundtable
