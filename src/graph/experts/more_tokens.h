// More tokens for experts that too few have chosen: in passes of their own, other tokens are sent to them.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace roundtable {

// Which tokens of a calibration set go to which experts of a block in addition to those that have chosen them. It depends
// on the sample's number in the set and on the choices of its tokens, so that any division of the set gives the same.
class MoreTokens {
 public:
  // `missing`: tokens that each expert is to see more; 0: it has enough. `samples` of the whole set.
  MoreTokens(std::vector<std::int64_t> missing, std::int64_t samples);

  // Whether any token of the sample goes to an expert that it has not chosen.
  bool takes_from(std::int64_t sample) const;

  // The choices [tokens, K] of the tokens of one sample, with changes: each expert that misses tokens has its share of
  // them, at equal distances among those that have not chosen it, in the place of their last choice, or of one before if
  // that is taken. Its own tokens, which it has seen, get `experts`, which is nobody's number. All other choices stay.
  // It has fewer than its share only where the tokens have no more places.
  torch::Tensor choices(const torch::Tensor& index, std::int64_t experts, std::int64_t sample) const;

 private:
  std::int64_t share(std::size_t expert, std::int64_t sample) const;

  std::vector<std::int64_t> missing_;
  std::vector<std::int64_t> offset_;  // of an expert's shares: so that one token each is not all of one sample
  std::int64_t samples_;
};

}  // namespace roundtable
