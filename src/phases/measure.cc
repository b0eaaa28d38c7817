// Two passes through blocks, and both heads piece by piece.
#include "phases/measure.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/activity.h"
#include "base/error.h"
#include "graph/model_ends.h"
#include "io/safetensors.h"
#include "model/measures/next_token.h"
#include "phases/boundary/boundary_states.h"
#include "phases/forward_pass.h"
#include "plan/path_checks.h"
#include "run/stop.h"

namespace roundtable {
namespace {

// Logits of so many positions are made at a time, or of fewer where they are larger than this. Products of fewer rows
// take longer.
constexpr std::int64_t kPositions = 512;
constexpr std::int64_t kBytes = std::int64_t{256} << 20;

// What leaves the last block, of this rank's samples.
torch::Tensor run_to_end(const RankContext& ranks, const MeasuredModel& model, const TokenRows& tokens,
                         const SampleRange& range, const MeasureSettings& settings) {
  const ForwardPass forward(ranks, model.model, settings.width);
  return forward
      .run_blocks(model.source, forward.embed_rows(model.source, tokens, range), model.model.n_blocks(),
                  [&](std::int64_t block, const States&) {
                    if (block > 0 && settings.on_block) settings.on_block();
                  })
      .hidden;
}

struct EndOfModel {
  torch::Tensor hidden;
  Head head;
};

struct RowSums {
  TokenSums sums;
  std::vector<float> divergences;
};

// Adds what sample `row` gives, whose tokens are `ids` [seqlen]; `logits` [seqlen, vocab] receives its logits where it
// is defined.
void add_row(const EndOfModel& model, const EndOfModel* float_model, std::int64_t row, const torch::Tensor& ids,
             std::int64_t at_once, torch::Tensor logits, RowSums& all) {
  const auto features_of = [&](const EndOfModel& end) { return end.head.features(end.hidden.narrow(0, row, 1)); };
  const torch::Tensor features = features_of(model);
  const torch::Tensor float_features = float_model == nullptr ? torch::Tensor() : features_of(*float_model);
  const std::int64_t seqlen = ids.size(0);
  for (std::int64_t first = 0; first < seqlen; first += at_once) {
    note_progress();
    const std::int64_t n = std::min(at_once, seqlen - first);
    const std::int64_t predicted = std::min(n, seqlen - 1 - first);  // the last position predicts nothing known
    if (predicted <= 0 && !logits.defined()) continue;
    const torch::Tensor scores = model.head.logits(features.narrow(0, first, n));
    if (logits.defined()) logits.narrow(0, first, n).copy_(scores);
    if (predicted <= 0) continue;
    const torch::Tensor own = scores.narrow(0, 0, predicted), next = ids.narrow(0, first + 1, predicted);
    const TokenSums piece =
        float_model == nullptr
            ? measure_tokens(own, next)
            : compare_tokens(own, float_model->head.logits(float_features.narrow(0, first, predicted)), next,
                             all.divergences);
    all.sums.loss += piece.loss;
    all.sums.float_loss += piece.float_loss;
    all.sums.same_top += piece.same_top;
  }
}

void write_logits(const std::string& path, const torch::Tensor& logits) {
  write_safetensors(path, {{"logits", ElementType::kF32, logits.sizes().vec(), logits.const_data_ptr()}},
                    {{"format", kLogitsFormat}});
}

// The values of all ranks, in rank order, on rank 0; nothing on the others. Collective.
std::vector<float> gather_on_root(HostCommunicator& world, std::vector<float> mine) {
  const auto ranks = static_cast<std::size_t>(world.size());
  const bool root = world.rank() == 0;
  std::vector<std::int64_t> send(ranks), receive(ranks);
  const std::vector<std::int64_t> counts = world.all_gather(static_cast<std::int64_t>(mine.size()));
  send.front() = std::ssize(mine);
  if (root) receive = counts;
  std::int64_t all = 0;
  for (const std::int64_t count : receive) all += count;
  std::vector<float> gathered(static_cast<std::size_t>(all));
  world.all_to_all(host_span(mine), send, host_span(gathered), receive);
  return gathered;
}

// Collective over the world. Added in the order of the samples, so that the number of ranks does not matter.
Divergence divergence_of_all(HostCommunicator& world, const RowSums& mine, std::int64_t tokens) {
  const std::vector<float> values = gather_on_root(world, mine.divergences);
  Divergence found{.same_top = static_cast<double>(world.sum(mine.sums.same_top)) / static_cast<double>(tokens)};
  if (world.rank() == 0) {
    for (const float value : values) found.mean += value;
    found.mean /= static_cast<double>(tokens);
    if (std::isfinite(found.mean)) found.p99 = percentile(values, 0.99);
  }
  return world.broadcast_value(found, 0);
}

[[noreturn]] void refuse_infinite(const char* measure, const std::string& model, const std::string& tokens) {
  throw AgreedError(ExitCode::kNumeric, located(fmt::format("the {} of {} on {} is not finite", measure, model, tokens)));
}

double perplexity_of(HostCommunicator& world, double loss, std::int64_t tokens, const std::string& model,
                     const std::string& path) {
  const double sum = world.sum(loss);
  if (!std::isfinite(sum)) refuse_infinite("perplexity", model, path);
  return std::exp(sum / static_cast<double>(tokens));
}

}  // namespace

std::int64_t positions_at_once(std::int64_t vocab) {
  return std::clamp(kBytes / (vocab * 4), std::int64_t{1}, kPositions);
}

double percentile(std::vector<float> values, double fraction) {
  RT_CHECK(!values.empty() && fraction >= 0 && fraction <= 1);
  const double place = fraction * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::ptrdiff_t>(place);
  const auto at = values.begin() + below;
  std::nth_element(values.begin(), at, values.end());
  const double low = *at, share = place - static_cast<double>(below);
  if (share == 0) return low;
  return low + share * (*std::min_element(at + 1, values.end()) - low);
}

Measures measure(const RankContext& ranks, const MeasuredModel& model, const std::optional<MeasuredModel>& float_model,
                 const MeasureSettings& settings) {
  const torch::NoGradGuard no_gradients;
  const std::int64_t vocab = model.model.vocab_size();
  const TokenRows tokens = load_tokens(settings.tokens, 0, 0, vocab);
  if (tokens.seqlen < 2) {
    throw bad_input(settings.tokens, "its samples are one token long: there is nothing to predict");
  }
  const SampleRange range = part_of(tokens.rows, ranks.world.size(), ranks.world.rank());
  torch::Tensor float_hidden;
  if (float_model) {
    RT_CHECK(float_model->model.vocab_size() == vocab);
    float_hidden = run_to_end(ranks, *float_model, tokens, range, settings);
  }
  const torch::Tensor hidden = run_to_end(ranks, model, tokens, range, settings);
  const auto head_of = [&](const MeasuredModel& one) {
    return Head(one.source, one.model, ranks.device, ranks.world, 0);
  };
  const EndOfModel end{hidden, head_of(model)};
  std::optional<EndOfModel> float_end;
  if (float_model) float_end.emplace(EndOfModel{float_hidden, head_of(*float_model)});

  const torch::Tensor ids = token_rows(tokens, range).to(ranks.device);
  torch::Tensor logits;
  if (!settings.logits.empty()) logits = torch::empty({range.size(), tokens.seqlen, vocab});
  RowSums all;
  const std::int64_t most_rows = (tokens.rows + ranks.world.size() - 1) / ranks.world.size();
  for (std::int64_t row = 0; row < most_rows; ++row) {
    leave_if_asked(ranks.world);  // on a CPU the head's rows take longer than any block
    if (row >= range.size()) continue;
    add_row(end, float_end ? &*float_end : nullptr, row, ids[row], positions_at_once(vocab),
            logits.defined() ? logits[row] : torch::Tensor(), all);
  }
  if (logits.defined()) write_logits(settings.logits, logits);

  Measures measures{.tokens = tokens.rows * (tokens.seqlen - 1)};
  if (float_model) {
    measures.float_perplexity =
        perplexity_of(ranks.world, all.sums.float_loss, measures.tokens, float_model->name, settings.tokens);
  }
  measures.perplexity = perplexity_of(ranks.world, all.sums.loss, measures.tokens, model.name, settings.tokens);
  if (float_model) {
    measures.divergence = divergence_of_all(ranks.world, all, measures.tokens);
    if (!std::isfinite(measures.divergence->mean)) refuse_infinite("KL divergence", model.name, settings.tokens);
  }
  return measures;
}

}  // namespace roundtable
