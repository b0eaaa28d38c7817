// What a run will need on given ranks: memory, disk, traffic, and on a described cluster also time.
//
// Nothing but config.json is needed. The model is deliberately plain: counts of operations and bytes over the rates of
// the cluster section, summed where the program does one after the other. tests/bench/forecast.py compares it with
// runs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/config.h"
#include "graph/model.h"
#include "plan/shape.h"
#include "tune/block_tuner.h"

namespace roundtable {

struct Forecast {
  struct Bytes {
    std::string name;
    std::int64_t bytes = 0;
  };
  struct Phase {
    std::string name;
    double seconds = 0;
    std::string bound_by;  // the largest of its terms: "matrix products", "all-reduce", "file system" ...
  };

  Layout layout;
  std::vector<Bytes> memory;   // per rank in the phase that needs most, by item
  std::vector<Bytes> disk;     // by kind of file, at the fullest; make_forecast() leaves checkpoints to the plan
  std::vector<Bytes> traffic;  // of the whole run, by what carries it
  std::vector<Phase> phases;   // empty without a cluster section

  std::int64_t memory_bytes() const;
  std::int64_t block_bytes() const;  // of these, what no size of batches or samples changes: a block, and its tuning
  double seconds() const;
};

// `schemes` by block and linear layer, as Plan has them; `eval_tokens` is the number of held-out tokens (0: none).
Forecast make_forecast(const Config& config, const Model& model, const std::vector<BlockSchemes>& schemes,
                       const Layout& layout, std::int64_t eval_tokens);

}  // namespace roundtable
