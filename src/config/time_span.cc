// Parsing lengths of time.
#include "config/time_span.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>

namespace roundtable {
namespace {

// Digits alone, at most nine of them.
std::optional<std::int64_t> whole(std::string_view digits) {
  if (digits.empty() || digits.size() > 9 || digits.find_first_not_of("0123456789") != std::string_view::npos) return {};
  std::int64_t value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return value;
}

// What stands before the first `mark`, which is cut off `text` with it.
std::string_view take_before(std::string_view& text, char mark) {
  const std::size_t at = text.find(mark);
  if (at == std::string_view::npos) return {};
  const std::string_view part = text.substr(0, at);
  text.remove_prefix(at + 1);
  return part;
}

std::optional<double> plain_seconds(std::string_view text) {
  double value = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= 0 && value < 1e9)) return {};
  return value;
}

}  // namespace

std::optional<double> seconds_of(std::string_view text) {
  if (text.find(':') == std::string_view::npos) return plain_seconds(text);
  const bool with_days = text.find('-') != std::string_view::npos;
  const auto days = with_days ? whole(take_before(text, '-')) : 0;
  const auto hours = whole(take_before(text, ':'));
  const auto minutes = whole(take_before(text, ':'));
  const auto seconds = whole(text);
  if (!days || !hours || !minutes || !seconds || *minutes > 59 || *seconds > 59 || (with_days && *hours > 23)) return {};
  return static_cast<double>(((*days * 24 + *hours) * 60 + *minutes) * 60 + *seconds);
}

std::string clock_time(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::llround(std::clamp(seconds, 0.0, 1e9)));
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

}  // namespace roundtable
