// Opening a run, new or to be continued.
#include "pipeline/run_state.h"

#include <filesystem>
#include <map>
#include <numeric>

#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "pipeline/fingerprint.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;

bool is_empty_or_absent(const std::string& path) {
  std::error_code ignored;
  return !fs::exists(path, ignored) || (fs::is_directory(path, ignored) && fs::is_empty(path, ignored));
}

}  // namespace

RunState::RunState(const RunPaths& paths, const nlohmann::json& print, const Plan& plan) : paths_(paths), plan_(plan) {
  if (!fs::exists(paths.journal()) && !is_empty_or_absent(paths.output)) {
    throw bad_input(paths.output, fmt::format("is not empty, and no journal of this run is in {}", paths.directory),
                    "choose another output.path, or remove what is there");
  }
  make_directory(paths.directory);
  journal_ = std::make_unique<Journal>(paths.journal());
  claim(print);
  make_directory(paths.output);
  make_directory(paths.tuned);
  find_finished_blocks();
}

void RunState::claim(const nlohmann::json& print) {
  if (const nlohmann::json* run = journal_->last("run")) {
    const std::string difference = fingerprint_difference((*run)["fingerprint"], print);
    if (difference.empty()) return;
    throw bad_input(paths_.output, "holds another run, which differs in: " + difference,
                    fmt::format("choose another output.path, or remove it and {}", paths_.directory));
  }
  journal_->append({{"type", "run"}, {"fingerprint", print}});
}

void RunState::find_finished_blocks() {
  std::map<std::int64_t, const nlohmann::json*> blocks;
  for (const nlohmann::json& record : journal_->records()) {
    if (record["type"] == "block") blocks[record["block"].get<std::int64_t>()] = &record;
  }
  for (const Stage& stage : plan_.stages) {
    std::int64_t block = stage.first;
    for (; block < stage.last && blocks.contains(block); ++block) {
      const std::string path = paths_.tuned + "/" + (*blocks[block])["file"].get<std::string>();
      if (fs::exists(path) && hash_file(path) == (*blocks[block])["digest"]) continue;
      log_warning(fmt::format("{} is missing or was changed: block {} and what follows it in its stage are tuned anew",
                              path, block));
      break;
    }
    // Blocks that are tuned together are done together or not at all.
    const std::int64_t done = block - stage.first;
    finished_.push_back(block == stage.last ? done : done - done % plan_.joint_blocks);
  }
}

std::int64_t RunState::finished_blocks() const {
  return std::accumulate(finished_.begin(), finished_.end(), std::int64_t{0});
}

std::vector<std::int64_t> RunState::missing_boundaries() const {
  std::vector<std::int64_t> missing;
  for (std::size_t i = 0; i < plan_.stages.size(); ++i) {
    const bool needed = finished_[i] < plan_.stages[i].size();
    if (needed && !fs::exists(paths_.boundary(plan_.stages[i].first))) missing.push_back(plan_.stages[i].first);
  }
  return missing;
}

nlohmann::json RunState::shard_digests() const {
  nlohmann::json digests = nlohmann::json::object();
  for (const nlohmann::json& record : journal_->records()) {
    if (record.contains("file")) digests[record["file"].get<std::string>()] = record["digest"];
  }
  return digests;
}

const nlohmann::json* RunState::completed(const std::string& type) const {
  return finished_blocks() == plan_.model.n_blocks ? journal_->last(type) : nullptr;
}

}  // namespace roundtable
