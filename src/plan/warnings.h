// What a run can do although its user may not want it. Plan prints these lines; the run goes ahead.
#pragma once

#include <string>
#include <vector>

#include "config/config.h"
#include "plan/plan.h"

namespace roundtable {

// One line each, from the config and the decisions of `plan`.
std::vector<std::string> warnings_of(const Config& config, const Plan& plan);

// The same from what lies in the model's folder. Reads the headers of its files.
std::vector<std::string> warnings_of_model(const Config& config);

}  // namespace roundtable
