// Reading sizes.
#include "config/byte_size.h"

#include <charconv>
#include <limits>
#include <utility>

namespace roundtable {

std::optional<std::int64_t> parse_byte_size(std::string_view text) {
  constexpr std::pair<std::string_view, std::int64_t> kUnits[] = {
      {"KB", 1'000},          {"MB", 1'000'000},           {"GB", 1'000'000'000},
      {"TB", 1'000'000'000'000}, {"KiB", std::int64_t{1} << 10}, {"MiB", std::int64_t{1} << 20},
      {"GiB", std::int64_t{1} << 30}, {"TiB", std::int64_t{1} << 40}, {"B", 1}};
  for (const auto& [unit, factor] : kUnits) {
    if (!text.ends_with(unit)) continue;
    const std::string_view digits = text.substr(0, text.size() - unit.size());
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
    if (number < 1 || number > std::numeric_limits<std::int64_t>::max() / factor) return std::nullopt;
    return number * factor;
  }
  return std::nullopt;
}

}  // namespace roundtable
