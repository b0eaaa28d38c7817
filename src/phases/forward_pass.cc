// Embedding and blocks.
#include "phases/forward_pass.h"

#include <torch/types.h>

#include "base/activity.h"
#include "graph/block_loader.h"
#include "graph/model_ends.h"
#include "phases/boundary/boundary_states.h"
#include "run/stop.h"

namespace roundtable {
// One sample at a time, so that its bits do not depend on how many a rank has.
States ForwardPass::embed_rows(const TensorSource& source, const TokenRows& tokens, const SampleRange& range) const {
  const Embedding embedding(source, model_, ranks_.device, ranks_.world, 0);
  const torch::Tensor ids = token_rows(tokens, range);
  States all = empty_states(model_, 0, range.size()).to(ranks_.device);
  for (std::int64_t row = 0; row < range.size(); ++row) {
    States one = embedding.forward(ids.narrow(0, row, 1));
    States place = all.narrow(row, 1);
    place.hidden.copy_(one.hidden);
    for (auto& [name, tensor] : place.side.carried) tensor.copy_(one.side.carried.at(name));
  }
  if (model_.takes_tokens()) all.side.tokens = ids.to(ranks_.device);
  return all;
}

States ForwardPass::run_blocks(const TensorSource& source, States states, std::int64_t last,
                               const std::function<void(std::int64_t, const States&)>& before_block) const {
  // Readers take turns, so that no single rank's link to the file system carries the whole model.
  const auto reader = [&](std::int64_t block) { return static_cast<int>(block % ranks_.world.size()); };
  const std::unique_ptr<MpiCommunicator> loading = ranks_.world.duplicate();
  const std::unique_ptr<MpiCommunicator> holders = ranks_.world.split(ranks_.expert_part.part, ranks_.world.rank());
  BlockLoader loader(source, model_, *loading, ranks_.expert_part, *holders);
  BlockMaker maker(model_, ranks_.device, ranks_.exchange);
  for (std::int64_t block = 0; block < last; ++block) {
    leave_if_asked(ranks_.world);
    enter_block(block);
    before_block(block, states);
    const BlockWeights weights = loader.load(block, reader(block));
    if (block + 1 < last) loader.load_ahead(block + 1, reader(block + 1));
    states = run_block(maker.make(weights), states, width_);
    drop_unneeded(model_, block + 1, states);
  }
  enter_block(-1);
  before_block(last, states);
  return states;
}

}  // namespace roundtable
