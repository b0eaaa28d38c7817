// A small random Llama block with calibration data, the same on every rank.
#pragma once

#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>

#include "graph/block_loader.h"
#include "graph/states.h"
#include "tests/graph/tiny_models.h"
#include "tune/block_tuner.h"

namespace roundtable::testing {

struct TinyProblem {
  TinyLlama llama;
  Model model = tiny_llama_model(llama);
  BlockWeights weights;
  torch::Tensor input;  // [8, 16, 64]
  torch::Tensor target;
  BlockSchemes schemes;

  explicit TinyProblem(const QuantScheme& scheme = {3, 32, true, true, true, 1}) {
    torch::manual_seed(11);
    for (const LinearSpec& linear : model.linears(0)) {
      weights.weights.push_back(torch::randn({linear.out, linear.in}) / std::sqrt(static_cast<double>(linear.in)));
      schemes.push_back(scheme);
    }
    for (const ParameterSpec& norm : model.table(0).others) weights.others.push_back(torch::ones(norm.shape));
    input = torch::randn({8, model.seqlen(), llama.hidden});
    target = run(block(), input);
  }

  Block block(torch::Device device = torch::kCPU) const { return BlockMaker(model, device).make(weights); }

  // All samples through a block.
  static torch::Tensor run(const Block& block, const torch::Tensor& input) {
    return run_block(block, {input, {}}, 0).hidden;
  }

  TuningUnit unit(Block& block) const { return {{&block}, weights.weights, schemes}; }

  BlockSamples samples(const SampleRange& range) const {
    return {{input.narrow(0, range.begin, range.size()), {}}, target.narrow(0, range.begin, range.size()), range};
  }
};

}  // namespace roundtable::testing
