// Embedding, blocks, and the head with its cross entropy.
#include "phases/forward_pass.h"

#include <ATen/core/Reduction.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>

#include "base/activity.h"
#include "base/error.h"
#include "io/safetensors.h"
#include "graph/block_loader.h"
#include "graph/model_ends.h"
#include "phases/boundary/boundary_states.h"
#include "plan/path_checks.h"
#include "run/stop.h"

namespace roundtable {
namespace {

// So many tokens' logits are widened to fp32 at a time: they are the widest tensor of all.
constexpr std::int64_t kHeadTokens = 512;

// Sum of the next-token cross entropies of one row; `logits` [seqlen, vocab] receives the row where it is defined.
double row_loss(const Head& head, const torch::Tensor& hidden, const torch::Tensor& ids, torch::Tensor logits) {
  const torch::Tensor row = head.forward(hidden.unsqueeze(0)).squeeze(0);
  const std::int64_t seqlen = row.size(0);
  double sum = 0;
  for (std::int64_t first = 0; first < seqlen; first += kHeadTokens) {
    const std::int64_t n = std::min(kHeadTokens, seqlen - first);
    const torch::Tensor scores = row.narrow(0, first, n).to(torch::kFloat32);
    if (logits.defined()) logits.narrow(0, first, n).copy_(scores);
    const std::int64_t predicted = std::min(n, seqlen - 1 - first);  // the last position predicts nothing known
    if (predicted <= 0) continue;
    sum += at::cross_entropy_loss(scores.narrow(0, 0, predicted), ids.narrow(0, first + 1, predicted), {},
                                  at::Reduction::Sum)
               .item<double>();
  }
  return sum;
}

void write_logits(const std::string& path, const torch::Tensor& logits) {
  write_safetensors(path, {{"logits", ElementType::kF32, logits.sizes().vec(), logits.const_data_ptr()}},
                    {{"format", kLogitsFormat}});
}

}  // namespace

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

Perplexity ForwardPass::measure_perplexity(const TensorSource& source, const std::string& name,
                                           const std::string& token_path, const std::string& logits_path,
                                           const std::function<void()>& on_block) const {
  const torch::NoGradGuard no_gradients;
  const TokenRows tokens = load_tokens(token_path, 0, 0, model_.vocab_size());
  if (tokens.seqlen < 2) throw bad_input(token_path, "its samples are one token long: there is nothing to predict");
  const SampleRange range = part_of(tokens.rows, ranks_.world.size(), ranks_.world.rank());

  const States states = run_blocks(source, embed_rows(source, tokens, range), model_.n_blocks(),
                                   [&](std::int64_t block, const States&) {
                                     if (block > 0 && on_block) on_block();
                                   });
  const Head head(source, model_, ranks_.device, ranks_.world, 0);
  const torch::Tensor ids = token_rows(tokens, range).to(ranks_.device);
  torch::Tensor logits;
  if (!logits_path.empty()) logits = torch::empty({range.size(), tokens.seqlen, model_.vocab_size()});
  double sum = 0;
  const std::int64_t most_rows = (tokens.rows + ranks_.world.size() - 1) / ranks_.world.size();
  for (std::int64_t row = 0; row < most_rows; ++row) {
    leave_if_asked(ranks_.world);  // on a CPU the head's rows take longer than any block
    if (row >= range.size()) continue;
    note_progress();
    sum += row_loss(head, states.hidden[row], ids[row], logits.defined() ? logits[row] : torch::Tensor());
  }
  if (logits.defined()) write_logits(logits_path, logits);
  sum = ranks_.world.sum(sum);
  if (!std::isfinite(sum)) {
    throw AgreedError(ExitCode::kNumeric,
                      located(fmt::format("the perplexity of {} on {} is not finite", name, token_path)));
  }
  const std::int64_t predicted = tokens.rows * (tokens.seqlen - 1);
  return {std::exp(sum / static_cast<double>(predicted)), predicted};
}

}  // namespace roundtable
