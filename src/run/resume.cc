// Opening a run, new or to be continued.
#include "run/resume.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <numeric>
#include <regex>
#include <set>

#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "run/fingerprint.h"
#include "run/stop.h"

namespace roundtable {

namespace fs = std::filesystem;

// Of the kernel's, on the directory itself: two runs with run directories of their own may be told the same output, and
// a dead job leaves none behind.
class RunState::DirectoryLock {
 public:
  explicit DirectoryLock(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    // A file system without such locks (some network mounts) answers otherwise: go on without one.
    const bool taken = fd_ >= 0 && ::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (!taken) return;
    ::close(fd_);
    throw bad_input(path, "another job is at work in this output directory", "wait for it, or choose another output.path");
  }
  ~DirectoryLock() {
    if (fd_ >= 0) ::close(fd_);
  }
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  int fd_;
};

RunState::~RunState() = default;

RunState::RunState(const RunPaths& paths, const nlohmann::json& print, const Plan& plan) : paths_(paths), plan_(plan) {
  if (!fs::exists(paths.journal()) && !is_empty_or_absent(paths.output)) {
    throw bad_input(paths.output, fmt::format("is not empty, and no journal of this run is in {}", paths.directory),
                    "choose another output.path, or remove what is there");
  }
  if (fs::is_directory(paths.output)) output_lock_ = std::make_unique<DirectoryLock>(paths.output);
  make_directory(paths.directory);
  journal_ = std::make_unique<Journal>(paths.journal());
  claim(print);
  make_directory(paths.output);
  make_directory(paths.tuned);
  if (!output_lock_) output_lock_ = std::make_unique<DirectoryLock>(paths.output);
  sweep();
  find_finished_blocks();
}

void RunState::claim(const nlohmann::json& print) {
  if (const nlohmann::json* run = journal_->last("run")) {
    const std::string difference = fingerprint_difference((*run)["fingerprint"], print);
    if (difference.empty()) return;
    throw bad_input(paths_.output, "holds another run, which differs in: " + difference,
                    fmt::format("choose another output.path, or remove it and {}", paths_.directory));
  }
  nlohmann::json stages = nlohmann::json::array();
  for (const Stage& stage : plan_.stages) stages.push_back({stage.first, stage.last});
  // The layout and the output are for `status`; what must not differ is in the fingerprint.
  journal_->append({{"type", "run"}, {"fingerprint", print}, {"stages", stages}, {"output", paths_.output}});
}

// Temporary files of a start that was killed. Nobody else can be writing one: the journal is ours alone.
void RunState::sweep() const {
  static const std::regex temporary(R"((.+\.tmp-.+-[0-9]+)|((boundary-[0-9]+|trial)\.h5\.tmp))");
  if (!journal_->locked()) return;
  constexpr auto kOptions = fs::directory_options::skip_permission_denied;
  for (const std::string& directory : {paths_.directory, paths_.output}) {
    std::error_code ignored;  // what cannot be removed costs disk, not correctness
    // Formats have folders of their own inside.
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory, kOptions, ignored)) {
      if (std::regex_match(entry.path().filename().string(), temporary)) fs::remove(entry.path(), ignored);
    }
  }
}

// Whether the shard of a record is on the disk as it was written.
bool RunState::stands(const nlohmann::json& record) const {
  const std::string path = paths_.tuned + "/" + record["file"].get<std::string>();
  return fs::exists(path) && hash_file(path) == record["digest"];
}

void RunState::find_finished_blocks() {
  std::map<std::int64_t, const nlohmann::json*> blocks;
  for (const nlohmann::json& record : journal_->records()) {
    if (record["type"] == "block") blocks[record["block"].get<std::int64_t>()] = &record;
  }
  for (const Stage& stage : plan_.stages) {
    std::int64_t block = stage.first;
    for (; block < stage.last && blocks.contains(block); ++block) {
      leave_here_if_asked();
      if (stands(*blocks[block])) continue;
      log_warning(fmt::format("{} is missing or was changed: block {} and what follows it in its stage are tuned anew",
                              paths_.tuned + "/" + (*blocks[block])["file"].get<std::string>(), block));
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

std::int64_t RunState::blocks_on_record() const {
  std::set<std::int64_t> blocks;
  for (const nlohmann::json& record : journal_->records()) {
    if (record["type"] == "block") blocks.insert(record["block"].get<std::int64_t>());
  }
  return std::ssize(blocks);
}

std::vector<std::int64_t> RunState::needed_boundaries() const {
  std::vector<std::int64_t> needed;
  for (std::size_t i = 0; i < plan_.stages.size(); ++i) {
    if (finished_[i] < plan_.stages[i].size()) needed.push_back(plan_.stages[i].first);
  }
  return needed;
}

std::vector<std::int64_t> RunState::missing_boundaries() const {
  std::map<std::int64_t, std::uintmax_t> written;
  for (const nlohmann::json& record : journal_->records()) {
    if (record["type"] == "boundary") written[record["block"].get<std::int64_t>()] = record["bytes"];
  }
  const auto whole = [&](std::int64_t block) {
    std::error_code missing;
    return written.contains(block) && fs::file_size(paths_.boundary(block), missing) == written[block] && !missing;
  };
  std::vector<std::int64_t> missing = needed_boundaries();
  std::erase_if(missing, whole);
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
  const bool whole = finished_blocks() == plan_.model.n_blocks && journal_->last("assembled") != nullptr;
  return whole && outside_stands() ? journal_->last(type) : nullptr;
}

bool RunState::outside_stands() const {
  std::map<std::string, const nlohmann::json*> files;  // the last record of each: an earlier start may have written it
  for (const nlohmann::json& record : journal_->records()) {
    if (record["type"] == "outside") files[record["file"].get<std::string>()] = &record;
  }
  return std::all_of(files.begin(), files.end(), [&](const auto& file) { return stands(*file.second); });
}

}  // namespace roundtable
