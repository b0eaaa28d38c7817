// A plan and a place for the files of a run, made by hand: for tests of what phases share.
#pragma once

#include <string>
#include <vector>

#include "base/hash.h"
#include "plan/plan.h"
#include "rundir/paths.h"
#include "tests/graph/tiny_models.h"
#include "tests/io/temporary_folder.h"

namespace roundtable::testing {

struct RunFixture {
  explicit RunFixture(std::vector<Stage> stages = {{0, 2}, {2, 4}}, int groups = 1) {
    config.output.path = folder.path() + "/out";
    plan.model = tiny_llama_model({.blocks = stages.back().last});
    plan.stages = std::move(stages);
    plan.groups = groups;
    plan.world.ranks = groups;
  }

  RunPaths paths() const { return RunPaths(config, true); }

  // Writes a file into the output and returns the record of it as a block's.
  record::Block block(std::int64_t index, const std::string& content) const {
    const std::string name = "block-" + std::to_string(index);
    record::Block record;
    record.stage = index / 2;
    record.block = index;
    record.files = {{name, hash_file(folder.put("out/" + name, content)), content.size()}};
    record.first_loss = 2;
    record.best_loss = 1;
    record.seconds = 3;
    return record;
  }

  TemporaryFolder folder;
  Config config;
  Plan plan;
};

}  // namespace roundtable::testing
