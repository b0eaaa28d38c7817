// Metering phases.
#include "run/phase_meter.h"

#include "base/clock.h"
#include "device/device.h"
#include "device/process.h"

namespace roundtable {

void PhaseMeter::run(const std::string& name, const std::function<void()>& work) {
  reset_peak_resident_bytes();
  reset_peak_device_bytes(device_);
  const Stopwatch watch;
  work();
  phases_.push_back({name, watch.seconds(), peak_resident_bytes(), roundtable::peak_device_bytes(device_),
                     device_.is_cuda()});
}

std::map<std::string, double> PhaseMeter::seconds() const {
  std::map<std::string, double> seconds;
  for (const Phase& phase : phases_) seconds[phase.name] = phase.seconds;
  return seconds;
}

std::map<std::string, std::vector<std::int64_t>> PhaseMeter::peak_bytes(HostCommunicator& comm) const {
  std::map<std::string, std::vector<std::int64_t>> peaks;
  for (const Phase& phase : phases_) peaks[phase.name] = comm.all_gather(phase.peak_bytes);
  return peaks;
}

std::map<std::string, std::vector<std::int64_t>> PhaseMeter::peak_device_bytes(HostCommunicator& comm) const {
  std::map<std::string, std::vector<std::int64_t>> peaks;
  for (const Phase& phase : phases_) {
    if (phase.has_device) peaks[phase.name] = comm.all_gather(phase.peak_device_bytes);
  }
  return peaks;
}

}  // namespace roundtable
