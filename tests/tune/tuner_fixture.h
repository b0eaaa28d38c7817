// A small random Llama block with calibration data, the same on every rank.
#pragma once

#include <torch/types.h>
#include <torch/utils.h>

#include "model/load/block_loader.h"
#include "tests/model/tiny_llama.h"
#include "tune/block_tuner.h"

namespace roundtable::testing {

struct TinyProblem {
  ModelConfig config = tiny_llama(1);
  BlockWeights weights;
  torch::Tensor input;  // [8, 16, 64]
  torch::Tensor target;
  BlockContext context;
  BlockSchemes schemes;

  explicit TinyProblem(const QuantScheme& scheme = {3, 32, true, true, true, 1}) {
    torch::manual_seed(11);
    for (const LinearSpec& linear : block_linears(config)) {
      weights.weights.push_back(torch::randn({linear.out, linear.in}) / std::sqrt(static_cast<double>(linear.in)));
      weights.biases.emplace_back();
      schemes.push_back(scheme);
    }
    for (const ParameterSpec& norm : block_norms(config)) weights.norms.push_back(torch::ones(norm.shape));
    input = torch::randn({8, 16, config.hidden_size});
    context = make_block_context(config, 16, torch::kFloat32, torch::kCPU);
    target = run_block(block(), input, context, 0);
  }

  DecoderBlock block() const { return make_block(config, weights, torch::kFloat32, torch::kCPU); }

  TuningUnit unit(DecoderBlock& block) const { return {{&block}, weights.weights, schemes}; }

  BlockSamples samples(const SampleRange& range) const {
    return {input.narrow(0, range.begin, range.size()), target.narrow(0, range.begin, range.size()), range};
  }
};

}  // namespace roundtable::testing
