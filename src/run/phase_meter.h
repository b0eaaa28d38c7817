// Seconds and peak memory of each phase of a run, on this rank.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"

namespace roundtable {

class PhaseMeter {
 public:
  // Runs `work` as phase `name`.
  void run(const std::string& name, const std::function<void()>& work);

  // {"calibrate": 1.5, ...} on this rank, in the order in which they ran.
  nlohmann::json seconds() const;
  // Peak resident bytes by phase, a list with one number per rank. Collective over `comm`.
  nlohmann::json peak_bytes(HostCommunicator& comm) const;

 private:
  struct Phase {
    std::string name;
    double seconds;
    std::int64_t peak_bytes;
  };
  std::vector<Phase> phases_;
};

}  // namespace roundtable
