// Reading the environment and the size of /dev/shm.
#include "commands/checks/launch_checks.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>

#include "base/activity.h"
#include "base/error.h"
#include "base/text.h"
#include "comm/agree.h"
#include "comm/nccl/nccl.h"
#include "device/device.h"

namespace roundtable {
namespace {

// Open MPI 4.1, opal/mca/btl/vader/btl_vader_component.c: segment_size, of which each process has one in /dev/shm.
constexpr std::int64_t kSegmentOfMpi = 4 << 20;
// NCCL gives each process a pool of this size at least ("failed to extend /dev/shm/nccl-... to 9637892 bytes" is its
// error in a container with the usual 64 MB).
constexpr std::int64_t kPoolOfNccl = 9637892;

std::int64_t number_in(const char* variable) {
  const char* text = std::getenv(variable);
  return text == nullptr ? 0 : std::atoll(text);
}

// What the segments of Open MPI hold already: it made them when this process started.
std::int64_t bytes_of_segments(const std::string& folder) {
  std::int64_t bytes = 0;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    struct stat status;
    const bool segment = entry.path().filename().string().starts_with("vader_segment.");
    if (segment && ::stat(entry.path().c_str(), &status) == 0) bytes += std::int64_t{status.st_blocks} * 512;
  }
  return bytes;
}

}  // namespace

std::optional<std::string> fault_of_launch(int ranks) {
  const std::int64_t tasks = number_in("SLURM_STEP_NUM_TASKS");
  // mpirun starts its own daemons by srun, and these pass the environment on: then Open MPI knows the world.
  const bool from_mpirun = std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr;
  if (ranks > 1 || from_mpirun || tasks <= 1 || number_in("SLURM_NTASKS") <= 1) return std::nullopt;
  return fmt::format(
      "SLURM_NTASKS: srun started {} processes, and MPI sees one alone: each of them would do the whole run; start "
      "them with srun --mpi=pmix (srun --mpi=list shows what your Slurm has), or with mpirun",
      tasks);
}

bool speaks_for_srun() { return number_in("SLURM_PROCID") == 0; }

void check_shared_memory(int ranks, bool with_nccl, const std::string& folder) {
  std::error_code unknown;
  const std::filesystem::space_info space = std::filesystem::space(folder, unknown);
  // A user who has told Open MPI what to use for messages knows why.
  const bool chosen = std::getenv("OMPI_MCA_btl") != nullptr || std::getenv("OMPI_MCA_pml") != nullptr;
  if (ranks < 2 || unknown) return;
  const std::int64_t each = (chosen ? 0 : kSegmentOfMpi) + (with_nccl ? kPoolOfNccl : 0);
  const std::int64_t free = static_cast<std::int64_t>(space.available) + bytes_of_segments(folder);
  if (free >= each * ranks) return;
  throw bad_input(folder,
                  fmt::format("{} has {} free there, and its {} ranks need {} of shared memory for {}", host_name(),
                              human_bytes(free), ranks, human_bytes(each * ranks), with_nccl ? "MPI and NCCL" : "MPI"),
                  "remove old files there, or make it larger (docker run --shm-size=1g)");
}

void check_shared_memory_everywhere(MpiCommunicator& world, const Config& config) {
  const auto node = world.split_by_node();
  run_on_all(world, [&] {
    if (node->rank() != 0) return;
    const bool with_nccl = config.parallel.backend != Backend::kMpi && nccl_available() && cuda_device_of(0);
    check_shared_memory(node->size(), with_nccl);
  });
}

}  // namespace roundtable
