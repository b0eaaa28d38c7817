// The places of a run's files: its output and its run directory.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>

#include "base/error.h"
#include "config/config.h"

namespace roundtable {

// Makes a folder and those above it. Throws Error.
inline void make_directory(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) throw call_error(path, "cannot be made", error.value());
}

// Where `path` leads, without links and dots, for comparing places; as it is written where that cannot be found out.
inline std::filesystem::path true_place(const std::string& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  const std::filesystem::path place = std::filesystem::weakly_canonical(absolute, error);
  return error ? absolute.lexically_normal() : place;
}

// Whether the folder is empty or does not exist.
inline bool is_empty_or_absent(const std::string& path) {
  std::error_code ignored;
  return !std::filesystem::exists(path, ignored) ||
         (std::filesystem::is_directory(path, ignored) && std::filesystem::is_empty(path, ignored));
}

// "auto_round-auto_awq": some file systems know no colon.
inline std::string folder_name(std::string format) {
  std::replace(format.begin(), format.end(), ':', '-');
  return format;
}

// The model card of a checkpoint.
inline constexpr const char* kModelCard = "README.md";

// The file of the hidden states that enter block `first`.
inline std::string boundary_in(const std::string& folder, std::int64_t first) {
  return fmt::format("{}/boundary-{:05d}.h5", folder, first);
}

// The scores of an option of auto_scheme: in the folder of the boundaries (RunPaths::boundary_root).
inline std::string scores_in(const std::string& folder, const std::string& digest) {
  return fmt::format("{}/scores-{}.json", folder, digest);
}

struct RunPaths {
  std::string output;     // what the user asked for
  std::string directory;  // journal, boundaries (unless shared), events, resolved config
  std::string tuned;      // the checkpoint that the groups write: `output`, or a folder of `directory`

  RunPaths(const Config& config, bool tuned_in_place)
      : output(config.output.path),
        directory(config.run.directory.empty() ? config.output.path + ".run" : config.run.directory),
        tuned(tuned_in_place ? output : directory + "/tuned") {}

  // The folder of an output format: `output` itself for the first one, a folder of its name below for the others.
  std::string format(const Config& config, const std::string& name) const {
    return name == config.output.formats.front() ? output : output + "/" + folder_name(name);
  }
  std::string format_record(const std::string& name) const { return directory + "/" + folder_name(name); }

  std::string journal() const { return directory + "/journal"; }
  std::string events() const { return directory + "/events.jsonl"; }
  std::string ranks() const { return directory + "/ranks.json"; }
  std::string resolved_config() const { return directory + "/config.yaml"; }
  // Boundaries are there, or in a folder below.
  std::string boundary_root(const Config& config) const {
    return config.calibration.cache.empty() ? directory : config.calibration.cache;
  }
  // The run's own, not a shared one.
  std::string boundary(std::int64_t first) const { return boundary_in(directory, first); }
  // `part`: of the ranks that divide the experts, each writes what it has.
  std::string gradients(std::int64_t block, int part = 0) const {
    return fmt::format("{}/gradients-{:05d}{}.safetensors", directory, block,
                       part > 0 ? fmt::format("-part-{}", part) : "");
  }
};

}  // namespace roundtable
