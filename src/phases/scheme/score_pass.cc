// Forward block by block, and back again.
#include "phases/scheme/score_pass.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "base/activity.h"
#include "base/error.h"
#include "graph/block_loader.h"
#include "graph/model_ends.h"
#include "phases/boundary/boundary_states.h"
#include "phases/forward_pass.h"
#include "phases/measure.h"
#include "phases/scheme/next_token_gradient.h"
#include "phases/scheme/tensor_file.h"
#include "quant/fake_quant.h"
#include "run/stop.h"

namespace roundtable {
namespace {

// Sum of |gradient * (weight - rounded)|: rows in fp32, their sum in fp64.
double score_of(const torch::Tensor& gradient, const torch::Tensor& weight, const torch::Tensor& rounded) {
  torch::Tensor lost = weight.to(rounded.device(), torch::kFloat32, /*non_blocking=*/false, /*copy=*/true);
  lost.sub_(rounded).mul_(gradient).abs_();
  return lost.sum(-1).to(torch::kFloat64).sum().item<double>();
}

class ScorePass {
 public:
  ScorePass(const RankContext& ranks, const Model& model, const TensorSource& source, const TokenRows& tokens,
            const ScoreSettings& settings)
      : ranks_(ranks),
        model_(model),
        source_(source),
        tokens_(tokens),
        settings_(settings),
        batches_((settings.samples + settings.batch_size - 1) / settings.batch_size),
        own_(part_of(batches_, ranks.world.size(), ranks.world.rank())),
        rows_{first_row(own_.begin), first_row(own_.end)},
        loading_(ranks.world.duplicate()),
        loader_(source, model, *loading_),
        maker_(model, ranks.device),
        file_(settings.folder) {
    for (std::int64_t block = 0; block < model.n_blocks(); ++block) {
      first_layer_.push_back(layers_);
      layers_ += std::ssize(model.linears(block));
    }
    scores_.resize(static_cast<std::size_t>(batches_ * layers_));
    losses_.resize(static_cast<std::size_t>(batches_));
  }

  LayerScores run() {
    {
      const torch::NoGradGuard no_gradients;
      const States last = forward();
      at_the_head(last.hidden);
    }
    backward();
    enter_block(-1);
    return all_together();
  }

 private:
  std::int64_t first_row(std::int64_t batch) const {
    return std::min(batch * settings_.batch_size, settings_.samples);
  }
  // A batch's rows among those of this rank.
  SampleRange rows_of(std::int64_t batch) const {
    return {first_row(batch) - rows_.begin, first_row(batch + 1) - rows_.begin};
  }
  // Readers take turns, as in ForwardPass.
  int reader(std::int64_t block) const { return static_cast<int>(block % ranks_.world.size()); }

  const BlockSchemes& schemes(std::int64_t block) const { return settings_.schemes[static_cast<std::size_t>(block)]; }

  // The block with rounded weights. `next`: the block to be read meanwhile; -1: none.
  std::pair<Block, BlockWeights> rounded_block(std::int64_t block, std::int64_t next) {
    leave_if_asked(ranks_.world);
    enter_block(block);
    BlockWeights weights = loader_.load(block, reader(block));
    if (next >= 0) loader_.load_ahead(next, reader(next));
    Block made = maker_.make(weights);
    for (std::size_t i = 0; i < made.linears().size(); ++i) {
      if (!schemes(block)[i]) continue;
      torch::Tensor& weight = made.linears()[i].weight;
      const torch::Tensor original = weights.weights[i].to(weight.device()).contiguous();
      weight.copy_(dequantize(round_to_nearest(original, *schemes(block)[i]), weight.scalar_type()));
      note_progress();
    }
    return {std::move(made), std::move(weights)};
  }

  // ---- forward -------------------------------------------------------------------------------------------------

  // What leaves the last block, of this rank's samples.
  States forward() {
    const ForwardPass pass(ranks_, model_, settings_.batch_size);
    States states = pass.embed_rows(source_, tokens_, rows_);
    if (settings_.low_gpu_mem_usage) states = states.to(torch::kCPU);
    const std::int64_t blocks = model_.n_blocks();
    keep_carried(states, names_of(states.side.carried), /*of_block=*/false);
    if (states.side.tokens.defined()) ids_ = states.side.tokens.to(torch::kCPU);
    for (std::int64_t block = 0; block < blocks; ++block) {
      if (rows_.size() > 0) hidden_.push_back(file_.write(states.hidden));
      carried_.push_back(present_);
      const auto [made, weights] = rounded_block(block, block + 1 < blocks ? block + 1 : -1);
      states = run_block(made, states, settings_.batch_size);
      drop_unneeded(model_, block + 1, states);
      keep_carried(states, made.gives(), /*of_block=*/true);
      settings_.on_block();
    }
    return states;
  }

  static std::vector<std::string> names_of(const TensorsByName& tensors) {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors) names.push_back(name);
    return names;
  }

  // A tensor that flows along with the hidden states is written when it is made, and read for each block that takes it.
  void keep_carried(const States& states, const std::vector<std::string>& names, bool of_block) {
    for (const std::string& name : names) {
      const auto found = states.side.carried.find(name);
      if (rows_.size() == 0 || found == states.side.carried.end()) continue;
      present_[name] = {file_.write(found->second), of_block && found->second.is_floating_point()};
    }
  }

  // ---- head ----------------------------------------------------------------------------------------------------

  // The loss of each batch, and its gradient with respect to what leaves the last block.
  void at_the_head(const torch::Tensor& last) {
    const Head head(source_, model_, ranks_.device, ranks_.world, 0);
    const torch::Tensor ids = token_rows(tokens_, rows_).to(ranks_.device);
    gradient_ = torch::empty_like(last);
    for (std::int64_t batch = own_.begin; batch < own_.end; ++batch) {
      const SampleRange rows = rows_of(batch);
      const std::int64_t predicted = rows.size() * (tokens_.seqlen - 1);
      double& loss = losses_[static_cast<std::size_t>(batch)];
      for (std::int64_t row = rows.begin; row < rows.end; ++row) {
        gradient_.narrow(0, row, 1).copy_(next_token_gradient(head, last.narrow(0, row, 1).to(ranks_.device), ids[row],
                                                              predicted, positions_at_once(model_.vocab_size()), loss));
      }
    }
  }

  // ---- backward ------------------------------------------------------------------------------------------------

  void backward() {
    for (std::int64_t block = model_.n_blocks() - 1; block >= 0; --block) {
      auto [made, weights] = [&] {
        const torch::NoGradGuard no_gradients;
        return rounded_block(block, block - 1);
      }();
      for (std::size_t i = 0; i < made.linears().size(); ++i) {
        if (schemes(block)[i]) take_scores(made.linears()[i], weights.weights[i], layer_number(block, i));
      }
      TensorsByName flowing;  // gradients of what earlier blocks have given
      for (std::int64_t batch = own_.begin; batch < own_.end; ++batch) {
        batch_ = batch;
        backward_batch(block, made, rows_of(batch), flowing);
        note_progress();
      }
      for (const std::string& name : made.gives()) flowing_.erase(name);
      for (auto& [name, gradient] : flowing) {
        torch::Tensor& sum = flowing_[name];
        sum = sum.defined() ? sum + gradient : gradient;
      }
      settings_.on_block();
    }
  }

  std::size_t layer_number(std::int64_t block, std::size_t place) const {
    return static_cast<std::size_t>(first_layer_[static_cast<std::size_t>(block)]) + place;
  }

  // Layers of experts are handed their gradients by several threads; each has a number of its own to write to.
  void take_scores(Linear& linear, const torch::Tensor& original, std::size_t number) {
    linear.weight.requires_grad_(true);
    linear.take_gradient = [this, &linear, original, number](const torch::Tensor& gradient) {
      const torch::NoGradGuard no_gradients;
      scores_[static_cast<std::size_t>(batch_ * layers_) + number] += score_of(gradient, original, linear.weight);
    };
  }

  void backward_batch(std::int64_t block, const Block& made, const SampleRange& rows, TensorsByName& flowing) {
    const torch::AutoGradMode gradients(true);
    const auto place = static_cast<std::size_t>(block);
    const torch::Tensor in =
        file_.read_rows(hidden_[place], rows.begin, rows.size()).to(ranks_.device).requires_grad_(true);
    SideTensors side;
    if (ids_.defined()) side.tokens = ids_.narrow(0, rows.begin, rows.size()).to(ranks_.device);
    TensorsByName entered;  // that a gradient goes back to
    for (const auto& [name, kept] : carried_[place]) {
      side.carried[name] = file_.read_rows(kept.place, rows.begin, rows.size()).to(ranks_.device);
      if (kept.of_block) entered[name] = side.carried[name].requires_grad_(true);
    }
    const torch::Tensor out = made.forward(in, side);
    std::vector<torch::Tensor> ends = {out};
    std::vector<torch::Tensor> given = {gradient_.narrow(0, rows.begin, rows.size()).to(ranks_.device)};
    for (const std::string& name : made.gives()) {
      const auto found = flowing_.find(name);
      if (found == flowing_.end() || !side.carried.at(name).requires_grad()) continue;
      ends.push_back(side.carried.at(name));
      given.push_back(found->second.narrow(0, rows.begin, rows.size()).to(ranks_.device));
    }
    torch::autograd::backward(ends, given);
    gradient_.narrow(0, rows.begin, rows.size()).copy_(in.grad());
    for (const auto& [name, tensor] : entered) {
      if (!tensor.grad().defined()) continue;
      torch::Tensor& whole = flowing[name];
      if (!whole.defined()) {
        std::vector<std::int64_t> shape = tensor.sizes().vec();
        shape.front() = rows_.size();
        whole = torch::zeros(shape, tensor.options().device(gradient_.device()).requires_grad(false));
      }
      whole.narrow(0, rows.begin, rows.size()).copy_(tensor.grad());
    }
  }

  // ---- all ranks -----------------------------------------------------------------------------------------------

  // Each number is of one rank, and zero on the others: the sums are exact, and the batches are added in their order.
  LayerScores all_together() {
    ranks_.world.all_reduce_sum(host_span(scores_));
    ranks_.world.all_reduce_sum(host_span(losses_));
    LayerScores all;
    all.batches = batches_;
    for (const double loss : losses_) all.loss += loss / static_cast<double>(batches_);
    bool finite = std::isfinite(all.loss);
    for (std::int64_t block = 0; block < model_.n_blocks(); ++block) {
      std::vector<double>& sums = all.of_block.emplace_back(model_.linears(block).size());
      for (std::int64_t batch = 0; batch < batches_; ++batch) {
        for (std::size_t i = 0; i < sums.size(); ++i) {
          sums[i] += scores_[static_cast<std::size_t>(batch * layers_) + layer_number(block, i)];
        }
      }
      for (const double sum : sums) finite = finite && std::isfinite(sum);
    }
    if (finite) return all;
    throw AgreedError(ExitCode::kNumeric,
                      located("the loss of the rounded model, or a score, is not finite; leave out the option with the "
                              "fewest bits, or set tuning.amp: false"));
  }

  struct Kept {
    TensorFile::Place place;
    bool of_block = false;  // a block gave it, so that it has a gradient
  };

  const RankContext& ranks_;
  const Model& model_;
  const TensorSource& source_;
  const TokenRows& tokens_;
  const ScoreSettings& settings_;
  std::int64_t batches_;
  SampleRange own_;   // batches of this rank
  SampleRange rows_;  // samples of these
  std::unique_ptr<MpiCommunicator> loading_;
  BlockLoader loader_;
  BlockMaker maker_;
  TensorFile file_;
  std::vector<std::int64_t> first_layer_;  // by block, among all layers
  std::int64_t layers_ = 0;
  std::vector<TensorFile::Place> hidden_;             // what enters each block
  std::map<std::string, Kept> present_;               // what flows along with it now
  std::vector<std::map<std::string, Kept>> carried_;  // the same for each block
  torch::Tensor ids_;                                 // where a block takes tokens
  torch::Tensor gradient_;                            // of what leaves the block that is next in the backward pass
  TensorsByName flowing_;                             // the same of what flows along with it
  std::int64_t batch_ = 0;
  std::vector<double> scores_;  // [batch][layer]
  std::vector<double> losses_;  // [batch]
};

}  // namespace

LayerScores score_layers(const RankContext& ranks, const Model& model, const TensorSource& source,
                         const TokenRows& tokens, const ScoreSettings& settings) {
  return ScorePass(ranks, model, source, tokens, settings).run();
}

}  // namespace roundtable
