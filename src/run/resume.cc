// Opening a run that is new, or that an earlier start has begun.
#include "run/resume.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/version.h"
#include "run/fingerprint.h"
#include "run/stop.h"
#include "rundir/at_work.h"
#include "rundir/ownership.h"

namespace roundtable {

namespace fs = std::filesystem;

// A lock of the kernel, on the directory itself: two runs with different run directories may be given the same output.
// A dead job leaves no lock behind.
class RunState::DirectoryLock {
 public:
  explicit DirectoryLock(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    constexpr const char* kFix = "wait for it, or choose another output.path";
    if (!fd_.is_open() || ::flock(fd_.get(), LOCK_EX | LOCK_NB) == 0) return;
    if (errno == EWOULDBLOCK) throw bad_input(path, "another job is at work in this output directory", kFix);
    // A file system without such locks (some network mounts).
    at_work_.emplace(path, kFix);
  }

 private:
  UniqueFd fd_;
  std::optional<AtWork> at_work_;
};

RunState::~RunState() = default;

RunState::RunState(const RunPaths& paths, const nlohmann::json& print, const Plan& plan) : paths_(paths), plan_(plan) {
  refuse_foreign_output(paths, records_of_own(Work::kRun, paths.directory, "run.directory"));
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
  if (const auto* run = journal_->last<record::Run>()) {
    const std::string difference = fingerprint_difference(run->fingerprint, print);
    if (difference.empty()) return;
    throw bad_input(paths_.output, "holds another run, which differs in: " + difference,
                    fmt::format("choose another output.path, or remove it and {}", paths_.directory));
  }
  record::Run run{std::string(program_version()), print, {}, paths_.output};
  for (const Stage& stage : plan_.stages) run.stages.push_back({stage.first, stage.last});
  journal_->append(run);
}

// Temporary files of a start that was killed. Nobody else can be writing one: this process holds the journal.
void RunState::sweep() const {
  if (!journal_->locked()) return;
  constexpr auto kOptions = fs::directory_options::skip_permission_denied;
  for (const std::string& directory : {paths_.directory, paths_.output}) {
    std::error_code ignored;  // what cannot be removed costs disk, not correctness
    // Formats have folders of their own inside.
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory, kOptions, ignored)) {
      if (is_unfinished_name(entry.path().filename().string())) fs::remove(entry.path(), ignored);
    }
  }
}

bool RunState::is_intact(const std::string& file, const std::string& digest) const {
  const std::string path = paths_.tuned + "/" + file;
  return fs::exists(path) && hash_file(path) == digest;
}

void RunState::find_finished_blocks() {
  const std::map<std::int64_t, const record::Block*> blocks = blocks_on_record();
  for (const Stage& stage : plan_.stages) {
    std::int64_t block = stage.first;
    for (; block < stage.last && blocks.contains(block); ++block) {
      leave_here_if_asked();
      const record::Block& record = *blocks.at(block);
      if (is_intact(record.file, record.digest)) continue;
      log_warning(
          fmt::format("{}/{} is missing or was changed: block {} and the blocks after it in its stage are tuned again",
                      paths_.tuned, record.file, block));
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

std::map<std::int64_t, const record::Block*> RunState::blocks_on_record() const {
  std::map<std::int64_t, const record::Block*> blocks;
  for_each_record<record::Block>(journal_->records(),
                                 [&](const record::Block& block) { blocks[block.block] = &block; });
  return blocks;
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
  for_each_record<record::Boundary>(journal_->records(),
                                    [&](const auto& boundary) { written[boundary.block] = boundary.bytes; });
  const auto whole = [&](std::int64_t block) {
    std::error_code missing;
    return written.contains(block) && fs::file_size(paths_.boundary(block), missing) == written[block] && !missing;
  };
  std::vector<std::int64_t> missing = needed_boundaries();
  std::erase_if(missing, whole);
  return missing;
}

std::map<std::string, std::string> RunState::file_digests() const {
  std::map<std::string, std::string> digests;
  const auto add = [&](const auto& record) { digests[record.file] = record.digest; };
  for_each_record<record::Block>(journal_->records(), add);
  for_each_record<record::Outside>(journal_->records(), add);
  return digests;
}

bool RunState::is_complete() const {
  if (finished_blocks() != plan_.model.n_blocks || journal_->last<record::Assembled>() == nullptr) return false;
  std::map<std::string, std::string> outside;  // an earlier start may have written a file too: its last record counts
  for_each_record<record::Outside>(journal_->records(),
                                   [&](const auto& record) { outside[record.file] = record.digest; });
  return std::all_of(outside.begin(), outside.end(),
                     [&](const auto& file) { return is_intact(file.first, file.second); });
}

}  // namespace roundtable
