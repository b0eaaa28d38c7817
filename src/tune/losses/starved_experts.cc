// Counts, and passes over the samples whose tokens are wanted.
#include "tune/losses/starved_experts.h"

#include <torch/types.h>

#include <algorithm>
#include <cstdint>

#include "graph/experts/more_tokens.h"

namespace roundtable {

std::vector<bool> quantized_experts(const Block& block, const std::vector<LinearSpec>& linears,
                                    const BlockSchemes& schemes) {
  std::vector<bool> experts(block.expert_tokens().size());
  for (std::size_t i = 0; i < linears.size() && !experts.empty(); ++i) {
    if (linears[i].expert >= 0 && schemes[i]) experts[static_cast<std::size_t>(linears[i].expert)] = true;
  }
  return experts;
}

std::vector<std::int64_t> tokens_of_group(const Block& block, HostCommunicator& group) {
  std::vector<std::int64_t> tokens = block.expert_tokens();
  if (!tokens.empty()) group.all_reduce_sum(host_span(tokens));
  return tokens;
}

StarvedExperts show_more_tokens(Block& block, const CalibrationSamples& samples, const std::vector<bool>& quantized,
                                std::int64_t least, Importance* inputs, HostCommunicator& group) {
  StarvedExperts found;
  const std::vector<std::int64_t> seen = tokens_of_group(block, group);
  std::vector<std::int64_t> missing(quantized.size());
  std::vector<bool> starved(quantized.size());
  for (std::size_t e = 0; e < quantized.size(); ++e) {
    if (quantized[e]) missing[e] = std::max<std::int64_t>(0, least - seen[e]);
    starved[e] = missing[e] > 0;
  }
  found.starved = found.left = std::count(starved.begin(), starved.end(), true);
  if (found.starved == 0 || inputs == nullptr) return found;

  const MoreTokens more(missing, samples.all);
  std::vector<std::int64_t> places;  // of the samples among this rank's
  for (std::int64_t i = 0; i < samples.range.size(); ++i) {
    if (more.takes_from(samples.range.begin + i)) places.push_back(i);
  }
  block.clear_expert_tokens();
  inputs->watch_only(starved);
  pass_samples(block, samples.states, places, [&](std::int64_t place) {
    block.set_chooser([&more, sample = samples.range.begin + place](const torch::Tensor& index, std::int64_t experts) {
      return more.choices(index, experts, sample);
    });
  });
  block.set_chooser({});
  const std::vector<std::int64_t> added = tokens_of_group(block, group);
  found.left = 0;
  for (std::size_t e = 0; e < missing.size(); ++e) {
    if (missing[e] == 0) continue;
    found.added += added[e];
    found.left += added[e] < missing[e] ? 1 : 0;
  }
  return found;
}

}  // namespace roundtable
