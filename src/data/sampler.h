// Which samples a tuning step sees. This depends on (seed, block, step) alone, never on the grid of ranks.
#pragma once

#include <cstdint>
#include <vector>

#include "base/sample_range.h"
#include "config/choices.h"

namespace roundtable {

// The calibration set of n samples is cut into `batch` strata (batch = batch_size * gradient_accumulate_steps).
//   kStrata: each step takes one sample from each stratum. Within a stratum the samples are visited in a random order,
//            a new one in each round, so that each sample was seen once after as many steps as a stratum has samples.
//   kRand:   each step takes `batch` distinct samples from the whole set, as auto-round's sampler 'rand' does.
class Sampler {
 public:
  // Needs 1 <= batch <= n_samples.
  Sampler(SamplerKind kind, std::int64_t n_samples, std::int64_t batch, std::uint64_t seed, std::int64_t block);

  // The `batch` samples of a step, in the order of the strata.
  std::vector<std::int64_t> step(std::int64_t step) const;

  std::int64_t batch() const { return batch_; }

 private:
  std::int64_t from_stratum(std::int64_t stratum, std::int64_t step) const;
  std::vector<std::int64_t> from_all(std::int64_t step) const;

  SamplerKind kind_;
  std::int64_t n_samples_;
  std::int64_t batch_;
  std::uint64_t seed_;
  std::int64_t block_;
};

// The samples that a shard of a group owns: its strata's, which are consecutive. `shards` divides `batch`.
SampleRange shard_samples(std::int64_t n_samples, std::int64_t batch, std::int64_t shards, std::int64_t shard);

}  // namespace roundtable
