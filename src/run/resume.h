// What of a run is already done, found in its journal and compared with the disk. On rank 0 alone.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "plan/plan.h"
#include "run/verify.h"
#include "rundir/journal.h"
#include "rundir/paths.h"

namespace roundtable {

// World::parts_on_record by the run's journal; 0 where there is none that can be read, of which RunState tells.
int parts_on_record(const RunPaths& paths);

// What auto_scheme has chosen by the run's journal, for the setting that `config` has; empty where there is nothing.
SchemeChoice scheme_on_record(const RunPaths& paths, const Config& config);

// Throws Error (kBadInput) where the run directory holds a run with another fingerprint than `print`, as RunState does.
void refuse_other_run(const RunPaths& paths, const nlohmann::json& print);

class RunState {
 public:
  // What is done is what the journal says, until take_stock().
  // Makes the directories, locks the output as long as this lives, opens the journal, compares `print` with the one in
  // it and removes temporary files of dead jobs. Throws Error (kBadInput), having changed nothing, when the output
  // directory holds another run or somebody else's files, or the same run with its experts in another number of parts,
  // or another job is at work in it. `plan` must outlive this.
  RunState(const RunPaths& paths, const nlohmann::json& print, const Plan& plan);
  ~RunState();
  RunState(const RunState&) = delete;
  RunState& operator=(const RunState&) = delete;

  Journal& journal() { return *journal_; }
  const Journal& journal() const { return *journal_; }

  // Every file of the result that the journal knows, as its last record says.
  std::vector<FileOnRecord> files_on_record() const;
  // Those of the checkpoint that the groups write.
  std::vector<FileOnRecord> tuned_files() const;
  // From now on, of the files on record those at the paths `damaged` count as not made. Warns of each.
  void take_stock(const std::vector<std::string>& damaged);
  // Throws Error (kBadInput) that names a tuned file of take_stock() which this start could not make again, because
  // `model`, the directory that it was copied from, no longer has it.
  void refuse_what_stays_damaged(const std::string& model) const;

  // Writes to the journal what files in the checkpoint that the groups write hold now, by their names there. Warns of
  // one whose content is another than in an earlier start.
  void record_tuned_files(const std::vector<std::string>& names);
  // The same for files in the output: path -> digest.
  void record_output_files(const std::map<std::string, std::string>& digests);
  // Whether somebody has changed a file of the output since its last record.
  bool was_edited(const std::string& path) const;

  // Per stage: the number of blocks at its start whose files are all on disk as they were written. A block after a
  // missing one does not count: it was tuned on an input that will be made again.
  const std::vector<std::int64_t>& finished() const { return finished_; }
  std::int64_t finished_blocks() const;
  // Blocks that the journal knows by now, those of this start too; of each the last record.
  std::map<std::int64_t, const record::Block*> blocks_on_record() const;

  // The first blocks of the stages that still need their boundary.
  std::vector<std::int64_t> needed_boundaries() const;
  // Those of them that have no complete boundary in the run directory.
  std::vector<std::int64_t> missing_boundaries() const;

  // The record if the tuned checkpoint is complete: its files are on disk as they were written, and none was written
  // after this record. Else null.
  const record::Assembled* assembled() const;
  // The same for all files of the run.
  const record::Summary* finished_summary() const;

 private:
  class DirectoryLock;

  void claim(const nlohmann::json& print);
  void sweep() const;
  void find_finished_blocks();
  void record_files(bool in_tuned, const std::map<std::string, std::string>& digests);

  RunPaths paths_;
  const Plan& plan_;
  std::unique_ptr<DirectoryLock> output_lock_;
  std::unique_ptr<Journal> journal_;
  std::set<std::string> damaged_;  // paths
  std::vector<std::int64_t> finished_;
};

}  // namespace roundtable
