// Looking at paths, permissions and free space.
#include "plan/path_checks.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "export/checkpoint_files.h"
#include "io/checkpoint.h"
#include "io/safetensors.h"
#include "rundir/ownership.h"
#include "rundir/paths.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;

std::string placed(const std::string& key, const std::string& path) { return fmt::format("{}: {}", key, path); }

bool lies_in(const std::string& inner, const std::string& outer) {
  const fs::path below = true_place(inner).lexically_relative(true_place(outer));
  return !below.empty() && *below.begin() != "..";
}

void check_names(const Config& config, const RunPaths& paths) {
  const std::string name = fs::path(paths.output).filename().string();
  if (config.run.directory.empty() && (name == "." || name == "..")) {
    throw bad_input(placed("output.path", paths.output), "has no name that the run directory's could be made of",
                    "write the folder's own name, or set run.directory");
  }
  const auto refuse_inside = [&](const char* key, const std::string& path) {
    if (path.empty() || !lies_in(path, paths.output)) return;
    throw bad_input(placed(key, path), "lies in output.path, and its files would become part of the checkpoint",
                    "choose a folder outside of output.path");
  };
  refuse_inside("run.directory", paths.directory);
  refuse_inside("calibration.cache", config.calibration.cache);
}

// The folder itself, or the lowest one above it that exists.
std::string existing_folder(const std::string& path) {
  std::error_code ignored;
  fs::path folder = fs::absolute(path, ignored);
  while (!fs::exists(folder, ignored) && folder.has_relative_path()) folder = folder.parent_path();
  return folder.string();
}

void check_writable(const std::string& key, const std::string& path) {
  const std::string folder = existing_folder(path);
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) {
    throw bad_input(placed(key, path), fmt::format("cannot be made: {} is a file", folder), "choose another path");
  }
  if (::faccessat(AT_FDCWD, folder.c_str(), W_OK | X_OK, AT_EACCESS) == 0) return;
  const int number = errno;
  throw bad_input(placed(key, path), fmt::format("cannot be written: {}: {}", folder, std::strerror(number)),
                  number == EROFS ? "choose a path in a file system that is not read-only"
                                  : "change the permissions, or choose another path");
}

// ---- space -----------------------------------------------------------------------------------------------------

// What a run writes to one place.
struct Need {
  std::string key;
  std::string path;
  std::string what;  // "boundaries"
  std::int64_t bytes = 0;
};

std::vector<Need> needs_of(const Config& config, const Plan& plan, const RunPaths& paths) {
  const bool shared = !config.calibration.cache.empty();
  const std::string run_key = config.run.directory.empty() ? "output.path" : "run.directory";
  std::vector<Need> needs;
  for (const Forecast::Bytes& item : plan.forecast.disk) {
    if (item.name == "tuned blocks") {  // from which the output is made
      needs.push_back({run_key, paths.tuned, item.name, item.bytes});
    } else if (item.name != "boundaries") {
      needs.push_back({"output.path", paths.output, item.name, item.bytes});
    } else if (!shared || is_empty_or_absent(config.calibration.cache)) {  // else another run may have made them
      needs.push_back({shared ? "calibration.cache" : run_key, paths.boundary_root(config), item.name, item.bytes});
    }
  }
  return needs;
}

void check_space(const std::vector<Need>& needs) {
  std::map<dev_t, std::vector<const Need*>> by_file_system;
  for (const Need& need : needs) {
    struct stat status;
    if (::stat(existing_folder(need.path).c_str(), &status) == 0) by_file_system[status.st_dev].push_back(&need);
  }
  for (const auto& [device, here] : by_file_system) {
    const std::string folder = existing_folder(here.front()->path);
    std::error_code unknown;
    const fs::space_info space = fs::space(folder, unknown);
    if (unknown || space.capacity == 0) continue;  // it does not say
    const auto free = static_cast<std::int64_t>(space.available);
    std::int64_t bytes = 0;
    std::string parts;
    for (const Need* need : here) {
      bytes += need->bytes;
      parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", need->what, human_bytes(need->bytes));
    }
    if (bytes <= free) continue;
    throw bad_input(placed(here.front()->key, here.front()->path),
                    fmt::format("the run needs about {} in this file system ({}), and {} are free", human_bytes(bytes),
                                parts, human_bytes(free)),
                    "free some space there, or choose another path");
  }
}

// Weights next to a checkpoint's would be read as a part of it. Files on record are the run's, whatever their names
// are: if the config has changed since, the fingerprint says so.
void check_weights(const Config& config, const Plan& plan, const RunPaths& paths, const std::vector<Record>& records) {
  std::set<std::string> own;
  for (const auto& [file, digest] : weight_files_on_record(records)) own.insert(file);
  if (!own.empty()) own.insert(kIndexFile);
  for (const CheckpointFormat* format : plan.formats) {
    if (format == plan.tuned && plan.tuned_in_place) continue;
    const std::string name(format->name());
    // A conversion that was begun looks at its folder itself: only it knows its files.
    if (!fs::exists(paths.format_record(name))) refuse_other_weights(paths.format(config, name), own);
  }
  own.merge(plan.weight_files());
  refuse_other_weights(paths.tuned, own);
}

}  // namespace

void check_places(const Config& config, const Plan& plan) {
  const RunPaths paths(config, plan.tuned_in_place);
  check_companions(config.model.path);
  check_names(config, paths);
  const std::vector<Record> records = records_of_own(Work::kRun, paths.directory, "run.directory");
  refuse_foreign_output(paths, records);
  check_weights(config, plan, paths, records);
  check_writable("output.path", paths.output);
  check_writable("run.directory", paths.directory);
  if (!config.calibration.cache.empty()) check_writable("calibration.cache", config.calibration.cache);
  if (records.empty()) check_space(needs_of(config, plan, paths));
}

void check_output_place(const Config& config, std::int64_t bytes) {
  const RunPaths paths(config, true);
  check_companions(config.model.path);
  check_names(config, paths);
  check_writable("output.path", paths.output);
  check_writable("run.directory", paths.directory);
  check_space({{"output.path", paths.output, "checkpoint", bytes}});
}

void check_logits_path(const std::string& path) {
  const std::string place = placed("run.logits", path);
  const fs::path parent = fs::path(path).parent_path();
  const std::string folder = parent.empty() ? "." : parent.string();
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored))
    throw bad_input(place, "its folder cannot be found", "check the path" + searched_from(path));
  check_writable("run.logits", folder);
  if (!is_there(path)) return;
  try {
    const auto metadata = SafetensorsFile(path).metadata();
    const auto format = metadata.find("format");
    if (format != metadata.end() && format->second == kLogitsFormat) return;
  } catch (const Error&) {  // no file of ours
  }
  throw bad_input(place, "is a file that eval has not written, and eval would overwrite it",
                  "choose another path, or remove the file");
}

}  // namespace roundtable
