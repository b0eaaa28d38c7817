// AutoRound as one would write it with LibTorch's autograd and optimizers alone: no custom function, no arena, no fused
// kernel.
#pragma once

#include <torch/optim/adamw.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <functional>
#include <vector>

#include "tests/quant/plain_formula.h"
#include "tests/tune/tuner_fixture.h"

namespace roundtable::testing {

struct PlainSettings {
  std::int64_t iters = 10;
  std::function<double(std::int64_t iteration)> lr;
  double momentum = 0;  // of the sign steps
  bool adamw = false;
};

struct PlainBlock {
  const TinyProblem* problem;
  std::vector<PlainParameters> parameters;
  std::vector<PlainParameters> buffers;  // momentum
};

inline void plain_sign_step(PlainBlock& block, double lr, double momentum) {
  for (std::size_t l = 0; l < block.parameters.size(); ++l) {
    PlainParameters& p = block.parameters[l];
    if (block.buffers.size() <= l) block.buffers.push_back({p.v * 0, p.min_scale * 0, p.max_scale * 0});
    PlainParameters& b = block.buffers[l];
    for (const auto& [value, buffer] :
         {std::pair{&p.v, &b.v}, std::pair{&p.min_scale, &b.min_scale}, std::pair{&p.max_scale, &b.max_scale}}) {
      buffer->mul_(momentum).add_(value->grad());
      value->sub_(lr * buffer->sign());
    }
  }
}

// The losses of tuning the problems' blocks as one, one after the other, on `input` and `target`.
inline std::vector<float> plain_losses(const std::vector<const TinyProblem*>& problems, const torch::Tensor& input,
                                       const torch::Tensor& target, const Sampler& sampler,
                                       const PlainSettings& settings) {
  std::vector<PlainBlock> blocks;
  std::vector<torch::Tensor> all;
  for (const TinyProblem* problem : problems) {
    blocks.push_back({problem, {}, {}});
    for (const torch::Tensor& weight : problem->weights.weights) {
      const auto groups = problem->schemes[0]->groups(weight.size(1));
      const PlainParameters p{torch::zeros_like(weight).requires_grad_(),
                              torch::ones({weight.size(0), groups}).requires_grad_(),
                              torch::ones({weight.size(0), groups}).requires_grad_()};
      blocks.back().parameters.push_back(p);
      all.insert(all.end(), {p.v, p.min_scale, p.max_scale});
    }
  }
  torch::optim::AdamW adamw(all, torch::optim::AdamWOptions(1).weight_decay(0));
  std::vector<float> losses;
  for (std::int64_t i = 0; i < settings.iters; ++i) {
    const torch::Tensor index = torch::tensor(sampler.step(i));
    torch::Tensor hidden = input.index_select(0, index);
    std::vector<Block> run;
    run.reserve(blocks.size());
    for (const PlainBlock& plain : blocks) {
      run.push_back(plain.problem->block());
      for (std::size_t l = 0; l < plain.parameters.size(); ++l) {
        run.back().linears()[l].weight =
            plain_fake_quantize(plain.problem->weights.weights[l], plain.parameters[l], *plain.problem->schemes[l]);
      }
      hidden = run.back().forward(hidden);
    }
    const torch::Tensor loss = torch::mse_loss(hidden, target.index_select(0, index));
    adamw.zero_grad();
    loss.backward();
    losses.push_back(loss.item<float>());
    if (settings.adamw) {
      static_cast<torch::optim::AdamWOptions&>(adamw.param_groups()[0].options()).lr(settings.lr(i));
      adamw.step();
    }
    const torch::NoGradGuard no_gradients;
    for (PlainBlock& plain : blocks) {
      if (!settings.adamw) plain_sign_step(plain, settings.lr(i), settings.momentum);
      for (PlainParameters& p : plain.parameters) {
        p.min_scale.clamp_(0, 1);
        p.max_scale.clamp_(0, 1);
      }
    }
  }
  return losses;
}

}  // namespace roundtable::testing
