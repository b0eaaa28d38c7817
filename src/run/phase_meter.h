// Seconds and peak memory of each phase of a run, on this rank.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace roundtable {

class PhaseMeter {
 public:
  // The device of the phases that follow; a CPU if this is not called.
  void set_device(const torch::Device& device) { device_ = device; }

  // Runs `work` as phase `name`.
  void run(const std::string& name, const std::function<void()>& work);

  // By phase, on this rank; the last time where a phase ran twice.
  std::map<std::string, double> seconds() const;
  // Peak resident bytes by phase, one number per rank. Collective over `comm`.
  std::map<std::string, std::vector<std::int64_t>> peak_bytes(HostCommunicator& comm) const;
  // Peak bytes that LibTorch reserved on the device, of phases that had one. Collective over `comm`.
  std::map<std::string, std::vector<std::int64_t>> peak_device_bytes(HostCommunicator& comm) const;

 private:
  struct Phase {
    std::string name;
    double seconds;
    std::int64_t peak_bytes;
    std::int64_t peak_device_bytes;
    bool has_device;
  };
  torch::Device device_ = torch::kCPU;
  std::vector<Phase> phases_;
};

}  // namespace roundtable
