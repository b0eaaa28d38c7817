// What a run will take on given ranks: memory, disk, traffic, and on a described cluster also time.
//
// Nothing but config.json is needed. The model is deliberately plain: counts of operations and bytes over the rates of
// the cluster section, summed where the program does one after the other. tests/bench/forecast.py holds it against runs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/config.h"
#include "model/description/model_config.h"
#include "tune/block_tuner.h"

namespace roundtable {

// A cut of the world into groups x shards, and of the blocks into stages.
struct Layout {
  int ranks = 1;
  int ranks_a_node = 1;
  int shards = 1;
  std::int64_t stages = 1;
  int groups() const { return ranks / shards; }
};

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
  std::vector<Bytes> memory;   // of a rank in the phase that needs most, by item
  std::vector<Bytes> disk;     // by kind of file, at the fullest
  std::vector<Bytes> traffic;  // of the whole run, by what carries it
  std::vector<Phase> phases;   // empty without a cluster section

  std::int64_t memory_bytes() const;
  double seconds() const;
};

// `schemes` by block and linear layer, as Plan has them; `eval_tokens` is the number of held-out tokens (0: none).
Forecast make_forecast(const Config& config, const ModelConfig& model, const std::vector<BlockSchemes>& schemes,
                       const Layout& layout, std::int64_t eval_tokens);

// The weights of a block's linear layers.
std::int64_t count_block_parameters(const ModelConfig& model);

// Stages of a chain of `blocks` blocks: parallel.stages, or one a group; none shorter than kLeastStage where the layout
// is the cost model's, because shorter ones cost quality (README.md, "stages").
std::int64_t count_stages(const Config& config, std::int64_t blocks, int groups);
inline constexpr std::int64_t kLeastStage = 4;

// The layout with the least time on the described cluster whose memory fits a device; parallel.shards and
// parallel.stages are kept where they are set. Throws Error (kBadInput) where no layout fits, with what the smallest
// one needs.
Layout choose_layout(const Config& config, const ModelConfig& model, const std::vector<BlockSchemes>& schemes, int ranks,
                     int ranks_a_node);

// Samples that a rank passes through a block at once while tuning: its share of batch_size unless the config says.
std::int64_t micro_batch_of(const Config& config, int shards);
// The same for passes without gradients, where 0 leaves it to run_block().
std::int64_t pass_width_of(const Config& config);

// The number that the shards of a group divide: a step's samples; of that, where the run is to be reproducible, the
// largest power of two (sum_gradients_by_tree).
std::int64_t sharded_strata(const Config& config, std::int64_t strata);

}  // namespace roundtable
