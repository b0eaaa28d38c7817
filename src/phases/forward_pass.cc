// Embedding, blocks, and the head with its cross entropy.
#include "phases/forward_pass.h"

#include <ATen/core/Reduction.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>

#include "base/activity.h"
#include "base/error.h"
#include "io/safetensors.h"
#include "model/load/block_loader.h"
#include "model/load/model_ends.h"
#include "plan/path_checks.h"
#include "run/stop.h"

namespace roundtable {
namespace {

// The head works on so many tokens at a time: logits are the widest tensor of all.
constexpr std::int64_t kHeadTokens = 512;

// Sum of the next-token cross entropies of one row; `logits` [seqlen, vocab] receives the row where it is defined.
double row_loss(const Head& head, const torch::Tensor& hidden, const torch::Tensor& ids, torch::Tensor logits) {
  const std::int64_t seqlen = hidden.size(0);
  double sum = 0;
  for (std::int64_t first = 0; first < seqlen; first += kHeadTokens) {
    const std::int64_t n = std::min(kHeadTokens, seqlen - first);
    const torch::Tensor scores = head.forward(hidden.narrow(0, first, n));
    if (logits.defined()) logits.narrow(0, first, n).copy_(scores);
    const std::int64_t predicted = std::min(n, seqlen - 1 - first);  // the last position predicts nothing known
    if (predicted <= 0) continue;
    sum += at::cross_entropy_loss(scores.narrow(0, 0, predicted), ids.narrow(0, first + 1, predicted), {},
                                  at::Reduction::Sum)
               .item<double>();
  }
  return sum;
}

torch::Tensor rows_of(const TokenRows& tokens, const SampleRange& range) {
  const auto begin = tokens.ids.begin() + range.begin * tokens.seqlen;
  const std::vector<std::int64_t> ids(begin, begin + range.size() * tokens.seqlen);
  return torch::tensor(ids, torch::kInt64).view({range.size(), tokens.seqlen});
}

void write_logits(const std::string& path, const torch::Tensor& logits) {
  write_safetensors(path, {{"logits", ElementType::kF32, logits.sizes().vec(), logits.const_data_ptr()}},
                    {{"format", kLogitsFormat}});
}

}  // namespace

torch::Tensor ForwardPass::embed_rows(const TensorSource& source, const TokenRows& tokens,
                                      const SampleRange& range) const {
  const Embedding embedding = load_embedding(source, model_, ranks_.dtype, ranks_.device, ranks_.world, 0);
  return embedding.forward(rows_of(tokens, range).to(ranks_.device));
}

torch::Tensor ForwardPass::run_blocks(
    const TensorSource& source, torch::Tensor hidden, std::int64_t last,
    const std::function<void(std::int64_t, const torch::Tensor&)>& before_block) const {
  const BlockContext context = make_block_context(model_, hidden.size(1), ranks_.dtype, ranks_.device);
  // Readers take turns, so that no single rank's link to the file system carries the whole model.
  const auto reader = [&](std::int64_t block) { return static_cast<int>(block % ranks_.world.size()); };
  const std::unique_ptr<MpiCommunicator> loading = ranks_.world.duplicate();
  BlockLoader loader(source, model_, *loading);
  for (std::int64_t block = 0; block < last; ++block) {
    leave_if_asked(ranks_.world);
    enter_block(block);
    before_block(block, hidden);
    const BlockWeights weights = loader.load(block, reader(block));
    if (block + 1 < last) loader.load_ahead(block + 1, reader(block + 1));
    hidden = run_block(make_block(model_, weights, ranks_.dtype, ranks_.device), hidden, context, width_);
  }
  enter_block(-1);
  before_block(last, hidden);
  return hidden;
}

Perplexity ForwardPass::measure_perplexity(const TensorSource& source, const std::string& name,
                                           const std::string& token_path, const std::string& logits_path,
                                           const std::function<void()>& on_block) const {
  const torch::NoGradGuard no_gradients;
  const TokenRows tokens = load_tokens(token_path, 0, 0, model_.vocab_size);
  if (tokens.seqlen < 2) throw bad_input(token_path, "its samples are one token long: there is nothing to predict");
  const SampleRange range = part_of(tokens.rows, ranks_.world.size(), ranks_.world.rank());

  torch::Tensor hidden = embed_rows(source, tokens, range);
  hidden = run_blocks(source, hidden, model_.n_blocks, [&](std::int64_t block, const torch::Tensor&) {
    if (block > 0 && on_block) on_block();
  });
  const Head head = load_head(source, model_, ranks_.dtype, ranks_.device, ranks_.world, 0);
  const torch::Tensor ids = rows_of(tokens, range).to(ranks_.device);
  torch::Tensor logits;
  if (!logits_path.empty()) logits = torch::empty({range.size(), tokens.seqlen, model_.vocab_size});
  double sum = 0;
  const std::int64_t most_rows = (tokens.rows + ranks_.world.size() - 1) / ranks_.world.size();
  for (std::int64_t row = 0; row < most_rows; ++row) {
    leave_if_asked(ranks_.world);  // on a CPU the head's rows take longer than any block
    if (row >= range.size()) continue;
    note_progress();
    sum += row_loss(head, hidden[row], ids[row], logits.defined() ? logits[row] : torch::Tensor());
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
