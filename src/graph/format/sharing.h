// Which values of a graph may share memory: views, and what operators write into.
#pragma once

#include <ATen/core/function_schema.h>

#include <cstdint>
#include <vector>

#include "graph/format/manifest.h"

namespace roundtable {

// Whether the operator writes into this argument.
bool is_write(const c10::Argument& argument);

// Whether the node's operator writes into its first argument. The operator is known.
bool writes(const GraphNode& node);

class Sharing {
 public:
  // All operators of the part are known, and have at most the arguments that their schemas have.
  explicit Sharing(const GraphPart& part);

  bool with_an_input(std::int64_t value) { return input_[root(value)]; }
  // Some node writes into memory that the value may share.
  bool is_written(std::int64_t value) { return written_[root(value)]; }

 private:
  std::size_t root(std::int64_t value);
  void join(std::int64_t a, std::int64_t b);

  std::vector<std::size_t> parent_;
  std::vector<bool> input_;
  std::vector<bool> written_;
};

}  // namespace roundtable
