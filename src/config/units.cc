// Parsing of sizes and lengths of time.
#include "config/units.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include "base/error.h"

namespace roundtable {
namespace {

// ---- sizes -----------------------------------------------------------------------------------------------------

std::optional<std::int64_t> bytes_of(std::string_view text) {
  constexpr std::pair<std::string_view, std::int64_t> kUnits[] = {{"KB", 1'000},
                                                                  {"MB", 1'000'000},
                                                                  {"GB", 1'000'000'000},
                                                                  {"TB", 1'000'000'000'000},
                                                                  {"KiB", std::int64_t{1} << 10},
                                                                  {"MiB", std::int64_t{1} << 20},
                                                                  {"GiB", std::int64_t{1} << 30},
                                                                  {"TiB", std::int64_t{1} << 40},
                                                                  {"B", 1}};
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

// ---- lengths of time -------------------------------------------------------------------------------------------

// Digits alone, at most nine of them.
std::optional<std::int64_t> whole(std::string_view digits) {
  if (digits.empty() || digits.size() > 9 || digits.find_first_not_of("0123456789") != std::string_view::npos)
    return {};
  std::int64_t value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return value;
}

// The part of `text` before the first `mark`; cuts the part and the mark off `text`.
std::string_view take_before(std::string_view& text, char mark) {
  const std::size_t at = text.find(mark);
  if (at == std::string_view::npos) return {};
  const std::string_view part = text.substr(0, at);
  text.remove_prefix(at + 1);
  return part;
}

std::optional<double> plain_seconds(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= 0 && value < 1e9)) return {};
  return value;
}

std::optional<double> seconds_of(std::string_view text) {
  if (text.find(':') == std::string_view::npos) return plain_seconds(text);
  const bool with_days = text.find('-') != std::string_view::npos;
  const auto days = with_days ? whole(take_before(text, '-')) : 0;
  const auto hours = whole(take_before(text, ':'));
  const auto minutes = whole(take_before(text, ':'));
  const auto seconds = whole(text);
  if (!days || !hours || !minutes || !seconds || *minutes > 59 || *seconds > 59 || (with_days && *hours > 23))
    return {};
  return static_cast<double>(((*days * 24 + *hours) * 60 + *minutes) * 60 + *seconds);
}

}  // namespace

std::optional<ByteSize> ByteSize::parse(std::string_view text) {
  ByteSize size;
  if (text.empty()) return size;
  const std::optional<std::int64_t> bytes = bytes_of(text);
  if (!bytes) return std::nullopt;
  size.text_ = text;
  size.bytes_ = *bytes;
  return size;
}

ByteSize::ByteSize(std::string_view text) {
  const std::optional<ByteSize> size = parse(text);
  RT_CHECK(size.has_value());
  *this = *size;
}

std::optional<TimeSpan> TimeSpan::parse(std::string_view text) {
  TimeSpan span;
  if (text.empty()) return span;
  const std::optional<double> seconds = seconds_of(text);
  if (!seconds) return std::nullopt;
  span.text_ = text;
  span.seconds_ = *seconds;
  return span;
}

TimeSpan::TimeSpan(std::string_view text) {
  const std::optional<TimeSpan> span = parse(text);
  RT_CHECK(span.has_value());
  *this = *span;
}

std::string clock_time(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::llround(std::clamp(seconds, 0.0, 1e9)));
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

}  // namespace roundtable
