// Sharing out files, and comparing digests.
#include "run/verify.h"

#include <filesystem>

#include "base/hash.h"
#include "comm/agree.h"
#include "run/stop.h"

namespace roundtable {

bool is_intact(const FileOnRecord& file) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(file.path, ignored)) return false;
  return file.may_be_edited || hash_file(file.path) == file.digest;
}

std::vector<std::string> damaged_files(HostCommunicator& comm, const std::vector<FileOnRecord>& files) {
  const auto known = run_on_root(comm, [&] {
    nlohmann::json all = nlohmann::json::array();
    for (const FileOnRecord& file : files) all.push_back({file.path, file.digest, file.may_be_edited});
    return all;
  });
  nlohmann::json mine = nlohmann::json::array();
  run_on_all(comm, [&] {
    for (auto i = static_cast<std::size_t>(comm.rank()); i < known.size(); i += static_cast<std::size_t>(comm.size())) {
      leave_here_if_asked();
      if (!is_intact({known[i][0], known[i][1], known[i][2]})) mine.push_back(known[i][0]);
    }
  });
  std::vector<std::string> damaged;
  for (const std::string& text : all_gather_text(comm, mine.dump())) {
    for (const auto& path : nlohmann::json::parse(text)) damaged.push_back(path);
  }
  return damaged;
}

}  // namespace roundtable
