// What is already done of a run, found in its journal and checked against the disk. On rank 0 alone.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "pipeline/journal.h"
#include "pipeline/plan.h"
#include "pipeline/run_paths.h"

namespace roundtable {

class RunState {
 public:
  // Makes the directories, opens the journal and holds `print` against the one in it. Throws Error (kBadInput), having
  // changed nothing, when the output directory holds another run or files of somebody else.
  RunState(const RunPaths& paths, const nlohmann::json& print, const Plan& plan);

  Journal& journal() { return *journal_; }

  // Blocks at the start of each stage whose shards stand on the disk as they were written. A block after a missing
  // one does not count: it was tuned on an input that will be made anew.
  const std::vector<std::int64_t>& finished() const { return finished_; }
  std::int64_t finished_blocks() const;

  // The first blocks of the stages that still need their boundary and have none.
  std::vector<std::int64_t> missing_boundaries() const;

  // file -> digest of every shard that the journal knows.
  nlohmann::json shard_digests() const;
  // The record of a type, only while every block is finished; null otherwise.
  const nlohmann::json* completed(const std::string& type) const;

 private:
  void claim(const nlohmann::json& print);
  void find_finished_blocks();

  RunPaths paths_;
  const Plan& plan_;
  std::unique_ptr<Journal> journal_;
  std::vector<std::int64_t> finished_;
};

}  // namespace roundtable
