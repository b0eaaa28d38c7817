// Settings that are written with a unit: sizes in bytes, and lengths of time. Each is parsed once, when the config is
// read, and keeps the text that the user wrote.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "config/constraint.h"

namespace roundtable {

// A size such as "5GB" or "1MiB", or none, which is the empty text.
//
// Units as huggingface_hub 1.x has them (serialization/_base.py, parse_size_to_int: decimal), and the binary ones with
// an i.
class ByteSize {
 public:
  ByteSize() = default;
  // For sizes in our own code; a text that parse() refuses is our bug.
  explicit ByteSize(std::string_view text);

  // Nothing for text that is not a size, for 0, and for a size that 63 bits do not hold. The empty text gives none.
  static std::optional<ByteSize> parse(std::string_view text);

  std::int64_t bytes() const { return bytes_; }  // 0: none
  bool empty() const { return bytes_ == 0; }
  const std::string& text() const { return text_; }
  bool operator==(const ByteSize&) const = default;

 private:
  std::string text_;
  std::int64_t bytes_ = 0;
};

// A length of time, or none, which is the empty text: "90", "1.5" (seconds), "HH:MM:SS" or "D-HH:MM:SS".
//
// These are the forms of Slurm's --time, except for its forms in minutes, since a plain number means seconds here.
// Minutes and seconds stay below 60, and hours below 24 where days are given.
class TimeSpan {
 public:
  TimeSpan() = default;
  // For spans in our own code; a text that parse() refuses is our bug.
  explicit TimeSpan(std::string_view text);

  // Nothing for text that is not a length of time. The empty text gives none.
  static std::optional<TimeSpan> parse(std::string_view text);

  double seconds() const { return seconds_; }  // 0: none, or no time at all
  bool empty() const { return text_.empty(); }
  const std::string& text() const { return text_; }
  bool operator==(const TimeSpan&) const = default;

 private:
  std::string text_;
  double seconds_ = 0;
};

// "H:MM:SS", rounded to a second. What is negative is shown as 0, and what is beyond 1e9 seconds as 1e9 seconds.
std::string clock_time(double seconds);

inline Constraint<ByteSize> byte_size() {
  return {"a size such as 5GB or 500MB", [](const ByteSize& size) { return !size.empty(); }};
}

inline Constraint<ByteSize> byte_size_or_none() {
  return {"a size such as 1MiB, or nothing", [](const ByteSize&) { return true; }};
}

inline Constraint<TimeSpan> time_span_or_none() {
  return {"seconds, HH:MM:SS, D-HH:MM:SS, or nothing",
          [](const TimeSpan& span) { return span.empty() || span.seconds() > 0; }};
}

}  // namespace roundtable
