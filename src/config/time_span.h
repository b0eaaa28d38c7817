// Lengths of time as people and Slurm write them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "config/constraint.h"

namespace roundtable {

// Seconds of "90", "1.5", "HH:MM:SS" or "D-HH:MM:SS" (Slurm's --time; its forms of minutes are not taken, since a plain
// number means seconds here). Minutes and seconds stay below 60, and hours below 24 where days are given. Empty for
// anything else.
std::optional<double> seconds_of(std::string_view text);

// "H:MM:SS", rounded to a second; what is negative or beyond 1e9 seconds is drawn in.
std::string clock_time(double seconds);

inline Constraint<std::string> time_span_or_none() {
  return {"seconds, HH:MM:SS, D-HH:MM:SS, or nothing",
          [](const std::string& value) { return value.empty() || seconds_of(value).value_or(0) > 0; }};
}

}  // namespace roundtable
