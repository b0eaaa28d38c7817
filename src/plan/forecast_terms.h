// The time of a phase of the forecast, as a sum of what takes it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "plan/forecast.h"

namespace roundtable {

// Collects a phase's terms: seconds by what limits them.
class Terms {
 public:
  void add(const std::string& name, double seconds) {
    for (auto& [known, sum] : terms_) {
      if (known == name) {
        sum += seconds;
        return;
      }
    }
    terms_.emplace_back(name, seconds);
  }
  Forecast::Phase phase(const std::string& name) const {
    Forecast::Phase phase{name, 0, ""};
    double most = -1;
    for (const auto& [term, seconds] : terms_) {
      phase.seconds += seconds;
      if (seconds <= most) continue;
      most = seconds;
      phase.bound_by = term;
    }
    return phase;
  }

 private:
  std::vector<std::pair<std::string, double>> terms_;
};

}  // namespace roundtable
