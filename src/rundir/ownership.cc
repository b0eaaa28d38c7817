// Journals and names as proofs of ownership.
#include "rundir/ownership.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <regex>
#include <set>
#include <variant>

#include "base/hash.h"
#include "rundir/at_work.h"
#include "rundir/journal.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> names_of_files(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!is_unfinished_name(name) && !is_sign_of_work(name)) names.push_back(name);
  }
  if (error) throw call_error(folder, "cannot be read", error.value());
  return names;
}

// Nothing in a folder that is absent. A file of that name is refused.
std::vector<std::string> names_in(const std::string& folder, const std::string& place) {
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (status.type() == fs::file_type::not_found) return {};
  if (error) throw call_error(fmt::format("{}: {}", place, folder), "cannot be looked at", error.value());
  if (!fs::is_directory(status)) {
    throw bad_input(fmt::format("{}: {}", place, folder), "is a file, and a folder is needed", "choose another path");
  }
  return names_of_files(folder);
}

}  // namespace

std::multimap<std::string, std::string> weight_files_on_record(const std::vector<Record>& records) {
  std::multimap<std::string, std::string> files;
  for_each_record<record::Block>(records, [&](const record::Block& block) {
    for (const BlockFile& file : block.files) files.emplace(file.name, file.digest);
  });
  for_each_record<record::Outside>(
      records, [&](const record::Outside& outside) { files.emplace(outside.file, outside.digest); });
  return files;
}

bool is_scores_name(const std::string& name) {
  static const std::regex scores(R"(scores-[0-9a-f]{32}\.json)");
  return std::regex_match(name, scores);
}

bool is_unfinished_name(const std::string& name) {
  static const std::regex unfinished(R"((.+\.tmp-.+-[0-9]+)|((boundary-[0-9]+|trial)\.h5\.tmp))");
  return std::regex_match(name, unfinished);
}

std::vector<Record> records_of_own(Work work, const std::string& directory, const std::string& place) {
  std::vector<std::string> names = names_in(directory, place);
  if (work == Work::kRun) std::erase_if(names, is_scores_name);
  const std::string folder = fmt::format("{}: {}", place, directory);
  const std::string journal = directory + "/journal";
  const bool has_journal = std::find(names.begin(), names.end(), "journal") != names.end();
  std::error_code ignored;
  if (names.empty() || (names.size() == 1 && has_journal && fs::is_empty(journal, ignored))) return {};
  if (!has_journal) {
    throw bad_input(folder, fmt::format("holds files ({}) and no journal of a run", names.front()),
                    "choose a folder that is empty or does not exist");
  }
  std::vector<Record> records = read_journal(journal).records;
  const bool mine =
      !records.empty() && (work == Work::kRun ? std::holds_alternative<record::Run>(records.front())
                                              : std::holds_alternative<record::Conversion>(records.front()));
  if (mine) return records;
  throw bad_input(folder,
                  work == Work::kRun ? "its journal is not one of roundtable quantize"
                                     : "its journal is not one of roundtable convert or round",
                  work == Work::kRun ? "choose another folder" : "choose another output");
}

void refuse_foreign_files(const std::string& output, const std::vector<std::string>& known, const std::string& owner,
                          const std::string& place) {
  const std::vector<std::string> names = names_in(output, place);
  const std::set<std::string> mine(known.begin(), known.end());
  if (names.empty() || std::any_of(names.begin(), names.end(), [&](const auto& n) { return mine.contains(n); })) return;
  throw bad_input(fmt::format("{}: {}", place, output),
                  fmt::format("is not empty ({}), and {} knows no file in it", names.front(), owner),
                  fmt::format("choose another {}, or remove what is there", place));
}

void refuse_foreign_output(const RunPaths& paths, const std::vector<Record>& records) {
  const std::string place = "output.path";
  const std::string owner = fmt::format("the journal in {}", paths.directory);
  const auto* run = last_record<record::Run>(records);
  const std::multimap<std::string, std::string> files = weight_files_on_record(records);
  const bool stayed = run != nullptr && true_place(run->output) == true_place(paths.output);
  if (run == nullptr) {
    if (names_in(paths.output, place).empty()) return;
    throw bad_input(fmt::format("{}: {}", place, paths.output),
                    fmt::format("is not empty, and no journal of this run is in {}", paths.directory),
                    "choose another output.path, or remove what is there");
  }
  // Where the output is made from blocks in the run directory, the journal does not know its files.
  if (paths.tuned != paths.output) {
    if (!stayed && paths.directory != paths.output + ".run") refuse_foreign_files(paths.output, {}, owner, place);
    return;
  }
  // The first block of all may have its file and not yet its record.
  if (stayed && files.empty()) return;
  std::vector<std::string> known;
  for (const auto& [file, digest] : files) {
    // A folder that was moved here with its run directory: names alone say nothing, since most models have the same.
    const std::string path = paths.output + "/" + file;
    std::error_code ignored;
    if (stayed || (known.empty() && fs::is_regular_file(path, ignored) && hash_file(path) == digest)) {
      known.push_back(file);
    }
  }
  refuse_foreign_files(paths.output, known, owner, place);
}

}  // namespace roundtable
