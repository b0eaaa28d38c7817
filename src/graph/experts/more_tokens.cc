// Shares by the number of the sample, places by the distance among its tokens.
#include "graph/experts/more_tokens.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace roundtable {

MoreTokens::MoreTokens(std::vector<std::int64_t> missing, std::int64_t samples)
    : missing_(std::move(missing)), offset_(missing_.size()), samples_(samples) {
  const auto all = std::count_if(missing_.begin(), missing_.end(), [](std::int64_t tokens) { return tokens > 0; });
  std::int64_t before = 0;
  for (std::size_t e = 0; e < missing_.size(); ++e) {
    if (missing_[e] > 0) offset_[e] = samples_ * before++ / all;
  }
}

// Over all samples these are missing_[expert].
std::int64_t MoreTokens::share(std::size_t expert, std::int64_t sample) const {
  RT_CHECK(sample >= 0 && sample < samples_);
  const auto up_to = [&](std::int64_t end) { return (end * missing_[expert] + offset_[expert]) / samples_; };
  return up_to(sample + 1) - up_to(sample);
}

bool MoreTokens::takes_from(std::int64_t sample) const {
  for (std::size_t e = 0; e < missing_.size(); ++e) {
    if (share(e, sample) > 0) return true;
  }
  return false;
}

torch::Tensor MoreTokens::choices(const torch::Tensor& index, std::int64_t experts, std::int64_t sample) const {
  TORCH_CHECK(index.dim() == 2, "index must be [N, K]");
  const torch::Tensor old = index.to(torch::kCPU, torch::kInt64).contiguous();
  const torch::Tensor changed = old.clone();
  const std::int64_t tokens = old.size(0), places = old.size(1);
  const auto* chosen = old.const_data_ptr<std::int64_t>();
  auto* out = changed.mutable_data_ptr<std::int64_t>();
  const auto all = std::min(std::ssize(missing_), experts);
  for (std::int64_t i = 0; i < tokens * places; ++i) {
    if (chosen[i] >= 0 && chosen[i] < all && missing_[static_cast<std::size_t>(chosen[i])] > 0) out[i] = experts;
  }
  std::vector<std::int64_t> given(static_cast<std::size_t>(tokens));  // places of each token
  for (std::int64_t e = 0; e < all; ++e) {
    const std::int64_t wanted = share(static_cast<std::size_t>(e), sample);
    if (wanted == 0) continue;
    std::vector<std::int64_t> others;
    for (std::int64_t t = 0; t < tokens; ++t) {
      const auto* own = chosen + t * places;
      if (given[static_cast<std::size_t>(t)] < places && std::find(own, own + places, e) == own + places) others.push_back(t);
    }
    const std::int64_t count = std::min(wanted, std::ssize(others));
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t t = others[static_cast<std::size_t>(i * std::ssize(others) / count)];
      out[(t + 1) * places - ++given[static_cast<std::size_t>(t)]] = e;
    }
  }
  return changed.to(index.options());
}

}  // namespace roundtable
