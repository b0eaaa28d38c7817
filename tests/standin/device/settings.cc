#include "tests/standin/device/settings.h"

#include <algorithm>
#include <cstdlib>

namespace roundtable::standin {
namespace {

std::string variable(const char* name, const std::string& otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

int rank_of_job() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID"}) {
    if (const char* value = std::getenv(name)) return std::atoi(value);
  }
  return 0;
}

// A list of a number per rank; ranks beyond its end have its last one.
int of_rank(const std::string& list, int rank) {
  std::size_t begin = 0;
  for (; rank > 0; --rank) {
    const std::size_t comma = list.find(',', begin);
    if (comma == std::string::npos) break;
    begin = comma + 1;
  }
  return std::atoi(list.c_str() + begin);
}

// "RANK:N"
Nth nth(const char* name, int rank) {
  const std::string value = variable(name, "");
  const std::size_t colon = value.find(':');
  if (colon == std::string::npos || std::atoi(value.c_str()) != rank) return {};
  return {std::atoll(value.c_str() + colon + 1)};
}

// CUDA_VISIBLE_DEVICES hides devices, as CUDA's runtime reads it.
int visible(int devices) {
  const char* list = std::getenv("CUDA_VISIBLE_DEVICES");
  if (list == nullptr) return devices;
  const std::string text = list;
  if (text.empty()) return 0;
  return std::min(devices, static_cast<int>(std::count(text.begin(), text.end(), ',')) + 1);
}

Settings read() {
  Settings s;
  s.rank = rank_of_job();
  s.devices = visible(of_rank(variable("STANDIN_DEVICES", "8"), s.rank));
  s.driver = of_rank(variable("STANDIN_DRIVER", "13000"), s.rank);
  s.name = variable("STANDIN_NAME", s.name);
  s.capability = std::atoi(variable("STANDIN_CAPABILITY", "90").c_str());
  s.memory = static_cast<std::size_t>(std::atoll(variable("STANDIN_MEMORY", "8192").c_str())) << 20;
  s.late = variable("STANDIN_WORK", "early") == "late";
  s.full = nth("STANDIN_OUT_OF_MEMORY", s.rank);
  s.broken = nth("STANDIN_BROKEN", s.rank);
  s.nccl_error = nth("STANDIN_NCCL_ERROR", s.rank);
  s.folder = variable("STANDIN_FOLDER", "/dev/shm");
  s.report = variable("STANDIN_REPORT", "");
  return s;
}

}  // namespace

const Settings& settings() {
  static const Settings read_once = read();
  return read_once;
}

}  // namespace roundtable::standin
