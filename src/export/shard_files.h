// Names of a checkpoint's files, and how tensors are spread over them.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <vector>

namespace roundtable {

// Shard `index` (from 0) of `count`, named as Hugging Face names them.
inline std::string shard_name(std::int64_t index, std::int64_t count) {
  return fmt::format("model-{:05d}-of-{:05d}.safetensors", index + 1, count);
}

// Cuts `sizes` into runs whose sums stay within `max_bytes`; an item that is larger is a run of its own. As
// huggingface_hub cuts (serialization/_base.py): a file is full when the next item would make it too large.
inline std::vector<std::vector<std::size_t>> cut_by_size(const std::vector<std::uint64_t>& sizes,
                                                         std::int64_t max_bytes) {
  std::vector<std::vector<std::size_t>> runs;
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (runs.empty() || sum + sizes[i] > static_cast<std::uint64_t>(max_bytes)) {
      runs.emplace_back();
      sum = 0;
    }
    runs.back().push_back(i);
    sum += sizes[i];
  }
  return runs;
}

}  // namespace roundtable
