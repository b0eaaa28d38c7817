// What is already done of a run, found in its journal and checked against the disk. On rank 0 alone.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rundir/journal.h"
#include "plan/plan.h"
#include "rundir/paths.h"

namespace roundtable {

class RunState {
 public:
  // Makes the directories, locks the output as long as this lives, opens the journal, holds `print` against the one in
  // it and removes temporary files of dead jobs. Throws Error (kBadInput), having changed nothing, when the output
  // directory holds another run or files of somebody else, or another job is at work in it.
  RunState(const RunPaths& paths, const nlohmann::json& print, const Plan& plan);
  ~RunState();
  RunState(const RunState&) = delete;
  RunState& operator=(const RunState&) = delete;

  Journal& journal() { return *journal_; }

  // Blocks at the start of each stage whose shards stand on the disk as they were written. A block after a missing
  // one does not count: it was tuned on an input that will be made anew.
  const std::vector<std::int64_t>& finished() const { return finished_; }
  std::int64_t finished_blocks() const;
  // Blocks that the journal knows by now, those of this start too.
  std::int64_t blocks_on_record() const;

  // The first blocks of the stages that still need their boundary.
  std::vector<std::int64_t> needed_boundaries() const;
  // Those of them that have none in the run directory that is whole.
  std::vector<std::int64_t> missing_boundaries() const;

  // file -> digest of every shard that the journal knows.
  nlohmann::json shard_digests() const;
  // The record of a type ("assembled", "summary"), while every block is finished and, once assembled, the shard of what
  // no block holds stands as it was written; null otherwise.
  const nlohmann::json* completed(const std::string& type) const;

 private:
  class DirectoryLock;

  void claim(const nlohmann::json& print);
  void sweep() const;
  bool stands(const nlohmann::json& record) const;
  bool outside_stands() const;
  void find_finished_blocks();

  RunPaths paths_;
  const Plan& plan_;
  std::unique_ptr<DirectoryLock> output_lock_;
  std::unique_ptr<Journal> journal_;
  std::vector<std::int64_t> finished_;
};

}  // namespace roundtable
