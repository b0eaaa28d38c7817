// Counter-based sampling: each random stream is made from (seed, block, round or step, stratum).
#include "data/sampler.h"

#include <numeric>

#include "base/error.h"

namespace roundtable {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014): a bijective mix, the same on every platform, unlike std::shuffle.
class SplitMix64 {
 public:
  explicit SplitMix64(std::uint64_t state) : state_(state) {}

  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }

  // Uniform enough in [0, n): n is far below 2^32, so the modulo's bias is below 2^-32.
  std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(n)); }

 private:
  std::uint64_t state_;
};

SplitMix64 stream_of(std::uint64_t seed, std::int64_t block, std::int64_t round, std::int64_t stratum) {
  std::uint64_t state = seed;
  for (const std::int64_t part : {block, round, stratum}) {
    state = SplitMix64(state ^ static_cast<std::uint64_t>(part + 1)).next();
  }
  return SplitMix64(state);
}

// A random order of [0, n), of which the caller needs the first `count` (Fisher and Yates).
std::vector<std::int64_t> shuffled(std::int64_t n, std::int64_t count, SplitMix64 random) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (std::int64_t i = 0; i < count; ++i) std::swap(order[i], order[i + random.below(n - i)]);
  order.resize(static_cast<std::size_t>(count));
  return order;
}

}  // namespace

Sampler::Sampler(SamplerKind kind, std::int64_t n_samples, std::int64_t batch, std::uint64_t seed, std::int64_t block)
    : kind_(kind), n_samples_(n_samples), batch_(batch), seed_(seed), block_(block) {
  RT_CHECK(batch >= 1 && batch <= n_samples);
}

std::vector<std::int64_t> Sampler::step(std::int64_t step) const {
  std::vector<std::int64_t> samples;
  switch (kind_) {
    case SamplerKind::kRand:
      return from_all(step);
    case SamplerKind::kStrata:
      for (std::int64_t stratum = 0; stratum < batch_; ++stratum) samples.push_back(from_stratum(stratum, step));
      return samples;
  }
  RT_UNREACHABLE("a sampler that takes no samples");
}

std::int64_t Sampler::from_stratum(std::int64_t stratum, std::int64_t step) const {
  const SampleRange range = part_of(n_samples_, batch_, stratum);
  const std::int64_t round = step / range.size();
  const std::int64_t place = step % range.size();
  return range.begin + shuffled(range.size(), place + 1, stream_of(seed_, block_, round, stratum)).back();
}

std::vector<std::int64_t> Sampler::from_all(std::int64_t step) const {
  return shuffled(n_samples_, batch_, stream_of(seed_, block_, step, -1));
}

SampleRange shard_samples(std::int64_t n_samples, std::int64_t batch, std::int64_t shards, std::int64_t shard) {
  RT_CHECK(batch % shards == 0);
  const std::int64_t strata = batch / shards;
  return {part_of(n_samples, batch, shard * strata).begin, part_of(n_samples, batch, (shard + 1) * strata - 1).end};
}

}  // namespace roundtable
