// What of a run is already done, found in its journal and compared with the disk. On rank 0 alone.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "plan/plan.h"
#include "rundir/journal.h"
#include "rundir/paths.h"

namespace roundtable {

class RunState {
 public:
  // Makes the directories, locks the output as long as this lives, opens the journal, compares `print` with the one in
  // it and removes temporary files of dead jobs. Throws Error (kBadInput), having changed nothing, when the output
  // directory holds another run or somebody else's files, or another job is at work in it. `plan` must outlive this.
  RunState(const RunPaths& paths, const nlohmann::json& print, const Plan& plan);
  ~RunState();
  RunState(const RunState&) = delete;
  RunState& operator=(const RunState&) = delete;

  Journal& journal() { return *journal_; }
  const Journal& journal() const { return *journal_; }

  // Per stage: the number of blocks at its start whose files are on disk as they were written. A block after a missing
  // one does not count: it was tuned on an input that will be made again.
  const std::vector<std::int64_t>& finished() const { return finished_; }
  std::int64_t finished_blocks() const;
  // Blocks that the journal knows by now, those of this start too; of each the last record.
  std::map<std::int64_t, const record::Block*> blocks_on_record() const;

  // The first blocks of the stages that still need their boundary.
  std::vector<std::int64_t> needed_boundaries() const;
  // Those of them that have no complete boundary in the run directory.
  std::vector<std::int64_t> missing_boundaries() const;

  // file -> digest of every file of the checkpoint that the journal knows.
  std::map<std::string, std::string> file_digests() const;
  // The last record of type T (Assembled, Summary) if every block is finished and, once assembled, the files of what no
  // block holds are on disk as they were written; else null.
  template <class T>
  const T* completed() const {
    return is_complete() ? journal_->last<T>() : nullptr;
  }

 private:
  class DirectoryLock;

  void claim(const nlohmann::json& print);
  void sweep() const;
  bool is_intact(const std::string& file, const std::string& digest) const;
  bool is_complete() const;
  void find_finished_blocks();

  RunPaths paths_;
  const Plan& plan_;
  std::unique_ptr<DirectoryLock> output_lock_;
  std::unique_ptr<Journal> journal_;
  std::vector<std::int64_t> finished_;
};

}  // namespace roundtable
