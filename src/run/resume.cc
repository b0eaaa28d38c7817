// Opening a run that is new, or that an earlier start has begun.
#include "run/resume.h"

#include <fcntl.h>
#include <fmt/ranges.h>
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
#include "rundir/at_work.h"
#include "rundir/ownership.h"

namespace roundtable {

namespace fs = std::filesystem;

namespace {

constexpr const char* kFormats = "output.formats";

std::vector<FileOnRecord> values_of(const std::map<std::string, FileOnRecord>& files) {
  std::vector<FileOnRecord> values;
  for (const auto& [path, file] : files) values.push_back(file);
  return values;
}

// Whether a record says that the checkpoint which the groups write was changed, or is complete.
bool is_of_tuned_checkpoint(const Record& record) {
  const auto* file = std::get_if<record::File>(&record);
  return (file != nullptr && file->in_tuned) || std::holds_alternative<record::Block>(record) ||
         std::holds_alternative<record::Outside>(record) || std::holds_alternative<record::Assembled>(record);
}

// What the user can do about a run that differs from the one in the journal in `difference`.
std::string fix_of(const record::Run& run, const nlohmann::json& print, const std::string& difference,
                   const RunPaths& paths) {
  std::string fix = fmt::format("choose another output.path, or remove it and {}", paths.directory);
  if (difference.find("number of stages") != std::string::npos) {
    return fmt::format("set parallel.stages={} to keep the stages of that run on any number of ranks, or {}",
                       run.stages.size(), fix);
  }
  if (difference != kFormats) return fix;
  const auto known = run.fingerprint[kFormats].get<std::vector<std::string>>();
  for (const auto& format : print[kFormats].get<std::vector<std::string>>()) {
    if (std::find(known.begin(), known.end(), format) != known.end()) continue;
    return fmt::format(
        "set {} to {} as before, and when the run is finished make the further format with: roundtable convert {} "
        "--format {} --output {}-{}; or {}",
        kFormats, fmt::join(known, ","), paths.tuned, format, paths.output, folder_name(format), fix);
  }
  return fmt::format("set {} to {} as before, or {}", kFormats, fmt::join(known, ","), fix);
}

// Files are named by their number among all, and each rank of a group has tuned its own part.
void refuse_other_parts(const record::Run& run, const Plan& plan, const RunPaths& paths) {
  if (run.expert_parts == plan.expert_parts) return;
  const auto text = [](std::int64_t parts) {
    return parts == 1 ? std::string("not divided") : fmt::format("divided into {} parts", parts);
  };
  throw bad_input(
      paths.output,
      fmt::format("holds this run with its experts {}, and this start has them {}", text(run.expert_parts),
                  text(plan.expert_parts)),
      fmt::format("set {}, or choose another output.path",
                  run.expert_parts == 1
                      ? std::string("parallel.experts=replicated")
                      : fmt::format("parallel.shards={} and parallel.experts=divided on a multiple of {} ranks",
                                    run.expert_parts, run.expert_parts)));
}

// Of a journal that can be read; RunState tells of any other.
std::vector<Record> records_on_disk(const RunPaths& paths) {
  std::error_code ignored;
  if (!fs::is_regular_file(paths.journal(), ignored)) return {};
  try {
    return read_journal(paths.journal()).records;
  } catch (const Error&) {
    return {};
  }
}

void refuse_difference(const record::Run& run, const nlohmann::json& print, const RunPaths& paths) {
  const std::string difference = fingerprint_difference(run.fingerprint, print);
  if (difference.empty()) return;
  throw bad_input(paths.output, "holds another run, which differs in: " + difference,
                  fix_of(run, print, difference, paths));
}

}  // namespace

int parts_on_record(const RunPaths& paths) {
  const std::vector<Record> records = records_on_disk(paths);
  const auto* run = last_record<record::Run>(records);
  return run == nullptr ? 0 : static_cast<int>(run->expert_parts);
}

SchemeChoice scheme_on_record(const RunPaths& paths, const Config& config) {
  const std::vector<Record> records = records_on_disk(paths);
  const auto* scheme = last_record<record::Scheme>(records);
  const bool same = scheme != nullptr && scheme->auto_scheme == written(config.quantization.auto_scheme);
  return same ? scheme->layers : SchemeChoice();
}

void refuse_other_run(const RunPaths& paths, const nlohmann::json& print) {
  const std::vector<Record> records = records_on_disk(paths);
  if (const auto* run = last_record<record::Run>(records)) refuse_difference(*run, print, paths);
}

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
    refuse_difference(*run, print, paths_);
    return refuse_other_parts(*run, plan_, paths_);
  }
  record::Run run{std::string(program_version()), print, {}, paths_.output, plan_.expert_parts};
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

void RunState::take_stock(const std::vector<std::string>& damaged) {
  damaged_ = {damaged.begin(), damaged.end()};
  find_finished_blocks();
  std::set<std::string> blocks;
  for (const auto& [block, record] : blocks_on_record()) {
    for (const BlockFile& file : record->files) blocks.insert(paths_.tuned + "/" + file.name);
  }
  for (const std::string& path : damaged_) {
    if (!blocks.contains(path)) log_warning(path + " is missing or was changed: it is made again");
  }
}

void RunState::find_finished_blocks() {
  const std::map<std::int64_t, const record::Block*> blocks = blocks_on_record();
  finished_.clear();
  for (const Stage& stage : plan_.stages) {
    std::int64_t block = stage.first;
    for (; block < stage.last && blocks.contains(block); ++block) {
      const std::vector<BlockFile>& files = blocks.at(block)->files;
      const auto damaged = std::find_if(files.begin(), files.end(), [&](const BlockFile& file) {
        return damaged_.contains(paths_.tuned + "/" + file.name);
      });
      if (damaged == files.end()) continue;
      log_warning(
          fmt::format("{}/{} is missing or was changed: block {} and the blocks after it in its stage are tuned again",
                      paths_.tuned, damaged->name, block));
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

std::vector<FileOnRecord> RunState::tuned_files() const {
  std::map<std::string, FileOnRecord> files;  // by path: the last record counts
  const auto add = [&](const std::string& name, const std::string& digest) {
    const std::string path = paths_.tuned + "/" + name;
    files[path] = {path, digest};
  };
  for (const auto& [name, digest] : weight_files_on_record(journal_->records())) add(name, digest);
  for_each_record<record::File>(journal_->records(), [&](const record::File& file) {
    if (file.in_tuned) add(file.file, file.digest);
  });
  return values_of(files);
}

std::vector<FileOnRecord> RunState::files_on_record() const {
  std::map<std::string, FileOnRecord> files;
  for (const FileOnRecord& file : tuned_files()) files[file.path] = file;
  for_each_record<record::File>(journal_->records(), [&](const record::File& file) {
    if (file.in_tuned) return;
    const std::string path = paths_.output + "/" + file.file;
    files[path] = {path, file.digest, fs::path(path).filename() == kModelCard};
  });
  return values_of(files);
}

void RunState::record_tuned_files(const std::vector<std::string>& names) {
  std::map<std::string, std::string> digests;
  for (const std::string& name : names) digests[name] = hash_file(paths_.tuned + "/" + name);
  record_files(true, digests);
}

void RunState::record_output_files(const std::map<std::string, std::string>& digests) {
  std::map<std::string, std::string> relative;
  for (const auto& [path, digest] : digests) {
    RT_CHECK(path.starts_with(paths_.output + "/"));
    relative[path.substr(paths_.output.size() + 1)] = digest;
  }
  record_files(false, relative);
}

// What is on record with this digest already is not written again.
void RunState::record_files(bool in_tuned, const std::map<std::string, std::string>& digests) {
  std::map<std::string, std::string> before;
  for_each_record<record::File>(journal_->records(), [&](const record::File& file) {
    if (file.in_tuned == in_tuned) before[file.file] = file.digest;
  });
  for (const auto& [name, digest] : digests) {
    const auto known = before.find(name);
    if (known != before.end() && known->second == digest) continue;
    if (known != before.end() && in_tuned) {
      log_warning(paths_.tuned + "/" + name + " has another content than before: the model's own file was changed");
    }
    journal_->append(record::File{in_tuned, name, digest});
  }
}

bool RunState::was_edited(const std::string& path) const {
  for (const FileOnRecord& file : files_on_record()) {
    if (file.path == path) return fs::exists(path) && hash_file(path) != file.digest;
  }
  return false;
}

void RunState::refuse_what_stays_damaged(const std::string& model) const {
  for (const FileOnRecord& file : tuned_files()) {
    if (!damaged_.contains(file.path) || is_intact(file)) continue;
    throw bad_input(file.path,
                    "is missing or was changed, and cannot be made again: the model has no such file any more",
                    fmt::format("put it into {} and run the same command again", model));
  }
}

const record::Assembled* RunState::assembled() const {
  if (finished_blocks() != plan_.model.n_blocks()) return nullptr;
  for (const FileOnRecord& file : tuned_files()) {
    if (damaged_.contains(file.path)) return nullptr;
  }
  const auto& records = journal_->records();
  const auto end = std::find_if(records.rbegin(), records.rend(), is_of_tuned_checkpoint);
  return end == records.rend() ? nullptr : std::get_if<record::Assembled>(&*end);
}

const record::Summary* RunState::finished_summary() const {
  if (assembled() == nullptr || !damaged_.empty()) return nullptr;
  return std::get_if<record::Summary>(&journal_->records().back());
}

}  // namespace roundtable
