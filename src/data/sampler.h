// Which samples a tuning step sees. The answer depends on (seed, block, step) alone, never on the grid of ranks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/sample_range.h"

namespace roundtable {

// The calibration set of n samples is cut into `batch` strata (batch = batch_size * gradient_accumulate_steps).
//   strata: each step takes one sample from each stratum. Within a stratum the samples are visited in a random order,
//           anew in each round, so that after as many steps as a stratum has samples all were seen once.
//   rand:   each step takes `batch` distinct samples from the whole set, as auto-round's sampler 'rand'.
class Sampler {
 public:
  // Needs 1 <= batch <= n_samples.
  Sampler(const std::string& kind, std::int64_t n_samples, std::int64_t batch, std::uint64_t seed, std::int64_t block);

  // The `batch` samples of a step, in the order of the strata.
  std::vector<std::int64_t> step(std::int64_t step) const;

  std::int64_t batch() const { return batch_; }

 private:
  std::int64_t from_stratum(std::int64_t stratum, std::int64_t step) const;
  std::vector<std::int64_t> from_all(std::int64_t step) const;

  bool strata_;
  std::int64_t n_samples_;
  std::int64_t batch_;
  std::uint64_t seed_;
  std::int64_t block_;
};

// The samples that a shard of a group owns: its strata's, which are consecutive. `shards` divides `batch`.
SampleRange shard_samples(std::int64_t n_samples, std::int64_t batch, std::int64_t shards, std::int64_t shard);

}  // namespace roundtable
