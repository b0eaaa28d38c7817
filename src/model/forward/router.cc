// The top-k router.
#include "model/forward/router.h"

#include <torch/types.h>

namespace roundtable {

std::vector<ExpertLoad> route(const torch::Tensor& hidden, const torch::Tensor& router, const ModelConfig& config) {
  const torch::Tensor scores = torch::softmax(torch::linear(hidden, router), -1, torch::kFloat32);  // [tokens, experts]
  auto [weights, experts] = torch::topk(scores, config.experts_per_token, -1);                      // [tokens, k]
  if (config.normalize_router) weights = weights / weights.sum(-1, /*keepdim=*/true);
  std::vector<ExpertLoad> loads;
  for (std::int64_t expert = 0; expert < config.n_experts; ++expert) {
    const std::vector<torch::Tensor> places = torch::where(experts == expert);  // token, rank in its top k
    loads.push_back({places[0], weights.index({places[0], places[1]}).unsqueeze(1)});
  }
  return loads;
}

}  // namespace roundtable
