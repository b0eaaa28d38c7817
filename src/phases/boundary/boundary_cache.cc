// Finding, and naming, boundaries that several runs share.
#include "phases/boundary/boundary_cache.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/types.h>
#include <torch/version.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "comm/agree.h"
#include "io/file.h"
#include "phases/boundary/boundary_states.h"
#include "run/fingerprint.h"
#include "run/stop.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;

// LibTorch chooses its kernels by the vector units, and cuts sums by the number of threads.
std::string device_text(const torch::Device& device) {
  if (device.is_cuda()) return "cuda";
  return fmt::format("cpu, {}, {} threads", at::get_cpu_capability(), at::get_num_threads());
}

// Tells this run's temporary files from those of others in the same folder; the same at each start of the run.
std::string run_digest(const nlohmann::json& print, const std::string& directory) {
  Hasher hasher;
  hasher.update(fingerprint_digest(print));
  hasher.update(fs::absolute(directory).lexically_normal().string());
  return hasher.digest();
}

// On rank 0.
void prepare_folder(const BoundaryPlace& place) {
  make_directory(place.folder);
  std::error_code ignored;  // what cannot be removed costs disk, not correctness
  const std::string about = place.folder + "/about.json";
  if (!fs::exists(about, ignored)) {
    write_file_atomically(about, [&](OutputFile& file) { file.write(place.about.data(), place.about.size()); });
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(place.folder, ignored)) {
    if (entry.path().string().ends_with(place.temporary)) fs::remove(entry.path(), ignored);
  }
}

// Whether the file there is what this run would write: all ranks read it through. Collective.
bool can_be_taken(const RunContext& context, std::int64_t block) {
  const Model& model = context.plan.model;
  const BoundaryShape shape = boundary_shape(model, context.config.calibration.n_samples, block);
  const SampleRange range = part_of(shape.n_samples, context.ranks.world.size(), context.ranks.world.rank());
  States states = empty_states(model, block, range.size());
  try {
    run_on_all(context.ranks.world, [&] {
      read_boundary(context.ranks.world, context.boundaries.boundary(block), shape, block,
                    context.boundaries.fingerprint, range, pointers_of(model, block, states));
    });
  } catch (const AgreedError&) {
    return false;
  }
  return true;
}

}  // namespace

nlohmann::json states_fingerprint(const nlohmann::json& print, const Config& config, const Model& model,
                                  const std::vector<std::string>& devices) {
  const std::int64_t width = pass_width_of(config);
  // To be raised with every change of what a block of the float model computes.
  nlohmann::json states = {
      {"version", 3}, {"LibTorch", TORCH_VERSION}, {"samples a pass", width}, {"graphs", model.digest()}};
  const bool alike = std::all_of(devices.begin(), devices.end(), [&](const auto& d) { return d == devices.front(); });
  states["devices"] = alike ? nlohmann::json(devices.front()) : nlohmann::json(devices);
  // The ranks cut the samples, and so the last pass of each, whose shape may choose another kernel.
  if (width != 1) states["ranks"] = devices.size();
  for (const char* part : {"model.path", "calibration.tokens", "calibration.n_samples", "calibration.seqlen",
                           "calibration.estimate", "tuning.amp"}) {
    states[part] = print.at(part);
  }
  return states;
}

BoundaryPlace place_boundaries(const RankContext& ranks, const Config& config, const Model& model,
                               const std::string& directory, const nlohmann::json& print) {
  BoundaryPlace place;
  if (config.calibration.cache.empty()) {
    place.folder = directory;
    place.fingerprint = broadcast_text(ranks.world, fingerprint_digest(print), 0);
    return place;
  }
  const std::vector<std::string> devices = all_gather_text(ranks.world, device_text(ranks.device));
  const nlohmann::json found = run_on_root(ranks.world, [&] {
    const nlohmann::json states = states_fingerprint(print, config, model, devices);
    return nlohmann::json{{"fingerprint", fingerprint_digest(states)},
                          {"temporary", ".tmp-" + run_digest(print, directory)},
                          {"about", states.dump(1) + "\n"}};
  });
  place.fingerprint = found["fingerprint"];
  place.folder = config.calibration.cache + "/" + place.fingerprint;
  place.temporary = found["temporary"];
  place.shared = true;
  place.about = found["about"];
  return place;
}

std::vector<BoundaryToMake> shared_boundaries_to_make(const RunContext& context,
                                                      const std::vector<std::int64_t>& needed) {
  run_on_root(context.ranks.world, [&] { prepare_folder(context.boundaries); });
  std::vector<BoundaryToMake> missing;
  for (const std::int64_t block : needed) {
    leave_if_asked(context.ranks.world);
    const std::string path = context.boundaries.boundary(block);
    const bool there = run_on_root(context.ranks.world, [&] {
      std::error_code none;
      return fs::exists(path, none);
    });
    if (there && can_be_taken(context, block)) continue;
    missing.push_back({block, there});
    if (there && context.ranks.world.rank() == 0) {
      log_warning(path + " is cut short, damaged or of another model or other samples: it is made again");
    }
  }
  const std::size_t taken = needed.size() - missing.size();
  if (taken > 0 && context.ranks.world.rank() == 0) {
    log_info(fmt::format("{} of {} boundaries come from {}{}", taken, needed.size(), context.boundaries.folder,
                         missing.empty() ? ": no float pass" : ""));
  }
  return missing;
}

}  // namespace roundtable
