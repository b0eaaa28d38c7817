// Where a run keeps what.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>

#include "config/config.h"

namespace roundtable {

struct RunPaths {
  std::string output;     // the checkpoint
  std::string directory;  // journal, boundaries, events, resolved config

  explicit RunPaths(const Config& config)
      : output(config.output.path),
        directory(config.run.directory.empty() ? config.output.path + ".run" : config.run.directory) {}

  std::string journal() const { return directory + "/journal"; }
  std::string events() const { return directory + "/events.jsonl"; }
  std::string ranks() const { return directory + "/ranks.json"; }
  std::string resolved_config() const { return directory + "/config.yaml"; }
  // The hidden states that enter block `first`.
  std::string boundary(std::int64_t first) const { return fmt::format("{}/boundary-{:05d}.h5", directory, first); }
  std::string gradients(std::int64_t block) const { return fmt::format("{}/gradients-{:05d}.safetensors", directory, block); }
};

// Shard `index` (from 0) of `count`, named as Hugging Face names them.
inline std::string shard_name(std::int64_t index, std::int64_t count) {
  return fmt::format("model-{:05d}-of-{:05d}.safetensors", index + 1, count);
}

}  // namespace roundtable
