// A block with experts: layers that are tuned as one matrix have the bits of layers that are tuned one by one.
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>
#include <map>
#include <mutex>

#include "graph/block_loader.h"
#include "tests/graph/tiny_models.h"
#include "tune/block_tuner.h"
#include "tune/losses/importance.h"
#include "tune/losses/mse.h"

namespace roundtable {
namespace {

using testing::TinyMixtral;
using torch::Tensor;

struct ExpertsCase {
  std::string name;
  torch::ScalarType dtype = torch::kFloat32;
  QuantScheme scheme{3, 32, true, true, true, 1};
  bool mixed = false;   // schemes differ, and a layer stays as it is
  bool search = false;  // of scales
  OptimizerKind optimizer = OptimizerKind::kSignRound;
  double momentum = 0;
};

// A block of 6 experts, of which a token chooses 2 and the last is never chosen, and 8 samples.
struct Mixture {
  static constexpr std::int64_t kIters = 6, kSamples = 8, kBatch = 8;  // every sample in every step: losses fall
  static constexpr double kRate = 0.004;

  explicit Mixture(const ExpertsCase& c)
      : model(testing::tiny_mixtral_model(TinyMixtral{.experts = 6}, 16, c.dtype)) {
    torch::manual_seed(12);
    for (const LinearSpec& linear : model.linears(0)) {
      weights.weights.push_back(
          (torch::randn({linear.out, linear.in}) / std::sqrt(static_cast<double>(linear.in))).to(c.dtype));
      schemes.push_back(c.scheme);
      if (c.mixed && linear.expert == 1) schemes.back()->bits = 4;
      if (c.mixed && linear.expert < 0) schemes.back()->group_size = 16;
    }
    if (c.mixed) schemes[8].reset();
    for (const ParameterSpec& other : model.table(0).others) {
      const bool router = other.shape.size() == 2;
      weights.others.push_back((router ? torch::randn(other.shape) : torch::ones(other.shape)).to(c.dtype));
      if (!router) continue;
      // Experts 0 and 1 have opposite scores, 2 and 3 as well: two are above 0, and expert 5 is never chosen.
      Tensor& rows = weights.others.back();
      rows[1].copy_(-rows[0]);
      rows[3].copy_(-rows[2]);
      rows[5].zero_();
    }
    input = torch::randn({kSamples, 16, 64}).to(c.dtype);
    Block block = make();
    const Importance inputs(block, model.linears(0));
    target = run_block(block, {input, {}}, 0).hidden;
    SelfCommunicator alone;
    if (c.search) importance = inputs.sum(alone);
    block.set_observer({});
  }

  Block make() const { return BlockMaker(model, torch::kCPU).make(weights); }

  Model model;
  BlockWeights weights;
  BlockSchemes schemes;
  Tensor input, target;
  std::vector<Tensor> importance;
};

const Sampler kMixtureSampler(SamplerKind::kStrata, Mixture::kSamples, Mixture::kBatch, 42, 0);

// Weights to be filled. Those of one expert that are tuned alike lie below each other, as the tuner has them: the products of
// such layers are one, with other roundings in bf16.
void give_empty_weights(Block& block, const BlockSchemes& schemes, bool below_each_other) {
  std::vector<Linear>& layers = block.linears();
  for (std::size_t first = 0; first < layers.size();) {
    std::size_t last = first + 1;
    const auto is_like_first = [&](std::size_t i) {
      return layers[i].expert >= 0 && layers[i].expert == layers[first].expert && schemes[i] == schemes[first] &&
             layers[i].weight.size(1) == layers[first].weight.size(1);
    };
    while (below_each_other && last < layers.size() && is_like_first(last)) ++last;
    std::int64_t rows = 0, row = 0;
    for (std::size_t i = first; i < last; ++i) rows += layers[i].weight.size(0);
    const Tensor all = torch::empty({rows, layers[first].weight.size(1)}, layers[first].weight.options());
    for (; first < last; ++first) {
      const std::int64_t own = layers[first].weight.size(0);
      if (schemes[first]) layers[first].weight = all.narrow(0, row, own).detach().requires_grad_();
      row += own;
    }
  }
}

// Each layer with parameters and an optimizer of its own.
TunedBlock tune_one_by_one(const Mixture& mixture, const ExpertsCase& c) {
  Block block = mixture.make();
  const std::size_t n = mixture.schemes.size();
  BlockSchemes schemes = mixture.schemes;
  std::vector<Tensor> quantized;
  for (std::size_t i = 0; i < n; ++i) {
    if (schemes[i]) quantized.push_back(mixture.weights.weights[i]);
  }
  std::vector<RoundingParameters> parameters(n);
  std::vector<std::unique_ptr<RoundingOptimizer>> optimizers(n);
  std::vector<Tensor> gradients(n);
  give_empty_weights(block, schemes, c.optimizer == OptimizerKind::kSignRound && c.momentum == 0);
  for (std::size_t i = 0; i < n; ++i) {
    if (!schemes[i]) continue;
    const Tensor& weight = mixture.weights.weights[i];
    schemes[i] = with_global_scale(*schemes[i], quantized);
    parameters[i] = make_rounding_parameters(weight, *schemes[i]);
    if (c.search) search_scales(weight, parameters[i], *schemes[i], mixture.importance[i]);
    optimizers[i] = make_optimizer(c.optimizer, c.momentum);
    gradients[i] = torch::zeros(weight.sizes());
    block.linears()[i].take_gradient = [&gradients, i](const Tensor& gradient) { gradients[i].copy_(gradient); };
  }
  TunedBlock out;
  for (std::int64_t step = 0; step < Mixture::kIters; ++step) {
    for (std::size_t i = 0; i < n; ++i) {
      if (!schemes[i]) continue;
      Tensor weight = block.linears()[i].weight.detach();
      fake_quantize(mixture.weights.weights[i], parameters[i], *schemes[i], weight);
      gradients[i].zero_();
    }
    const Tensor rows = torch::tensor(kMixtureSampler.step(step));
    const Tensor y = block.forward(mixture.input.index_select(0, rows));
    const SquaredError error = squared_error(y, mixture.target, rows, 1.0 / static_cast<double>(y.numel()));
    y.backward(error.gradient);
    out.losses.push_back(error.loss.item<float>());
    const bool best = step == 0 || out.losses.back() < out.best_loss();
    if (best) out.best_iteration = step;
    out.weights.resize(n);
    const double factor = schedule_factor(LrScheduler::kLinear, step, Mixture::kIters);
    for (std::size_t i = 0; i < n; ++i) {
      if (!schemes[i]) continue;
      const Tensor& weight = mixture.weights.weights[i];
      if (best) out.weights[i] = quantize(weight, parameters[i], *schemes[i]);
      const auto lr = static_cast<float>(Mixture::kRate * factor);
      optimizers[i]->step(weight, parameters[i], *schemes[i], gradients[i], {lr, lr});
    }
  }
  for (auto& weight : out.weights) {
    if (weight) replace_zero_scales(*weight);
  }
  return out;
}

TunedBlock tune_mixture(const Mixture& mixture, Block& block, const ExpertsCase& c,
                        const TuneObserver& observer = {}) {
  SelfCommunicator alone;
  const BlockSamples samples{{mixture.input, {}}, mixture.target, {0, Mixture::kSamples}, mixture.importance};
  return BlockTuner({{&block}, mixture.weights.weights, mixture.schemes}, samples, kMixtureSampler,
                    {.iters = Mixture::kIters, .lr = Mixture::kRate, .optimizer = c.optimizer, .momentum = c.momentum},
                    alone, observer)
      .tune();
}

class TunedExperts : public ::testing::TestWithParam<ExpertsCase> {};

TEST_P(TunedExperts, HaveTheBitsOfLayersOneByOne) {
  const Mixture mixture(GetParam());
  Block block = mixture.make();
  const TunedBlock found = tune_mixture(mixture, block, GetParam()), expected = tune_one_by_one(mixture, GetParam());
  EXPECT_EQ(block.expert_tokens()[5], 0);
  EXPECT_EQ(found.losses, expected.losses);
  EXPECT_EQ(found.best_iteration, expected.best_iteration);
  EXPECT_GT(found.best_iteration, 0);
  ASSERT_EQ(found.weights.size(), expected.weights.size());
  for (std::size_t i = 0; i < found.weights.size(); ++i) {
    const std::string& name = block.linears()[i].name;
    ASSERT_EQ(found.weights[i].has_value(), expected.weights[i].has_value()) << name;
    if (!found.weights[i]) continue;
    EXPECT_EQ(found.weights[i]->scheme, expected.weights[i]->scheme) << name;
    EXPECT_TRUE(torch::equal(found.weights[i]->q, expected.weights[i]->q)) << name;
    EXPECT_TRUE(torch::equal(found.weights[i]->scale, expected.weights[i]->scale)) << name;
    EXPECT_TRUE(torch::equal(found.weights[i]->zero_point, expected.weights[i]->zero_point)) << name;
    EXPECT_TRUE(torch::equal(block.linears()[i].weight, dequantize(*expected.weights[i], GetParam().dtype))) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, TunedExperts,
    ::testing::Values(ExpertsCase{.name = "int"}, ExpertsCase{.name = "int_bf16", .dtype = torch::kBFloat16},
                      ExpertsCase{.name = "asym_search", .scheme = {4, 20, false, true, true, 1}, .search = true},
                      ExpertsCase{.name = "mixed", .mixed = true},
                      ExpertsCase{.name = "mixed_search", .mixed = true, .search = true},
                      ExpertsCase{.name = "nv_fp", .scheme = {.bits = 4, .group_size = 16, .type = WeightType::kNvFp4}},
                      ExpertsCase{.name = "momentum", .momentum = 0.8},
                      ExpertsCase{.name = "adamw", .optimizer = OptimizerKind::kAdamW}),
    [](const auto& info) { return info.param.name; });

bool share_memory(const QuantizedWeight& a, const QuantizedWeight& b) {
  return a.q.storage().is_alias_of(b.q.storage());
}

// One matrix for gate and up of all experts, one for down, which has another width.
TEST(TunedExpertsTogether, AreOneMatrixForEachWidth) {
  const Mixture mixture(ExpertsCase{});
  Block block = mixture.make();
  const TunedBlock tuned = tune_mixture(mixture, block, {});
  std::map<std::int64_t, std::size_t> first;  // layer of experts of each width
  for (std::size_t i = 0; i < tuned.weights.size(); ++i) {
    const Linear& linear = block.linears()[i];
    if (linear.expert < 0) continue;
    const std::size_t other = first.emplace(linear.weight.size(1), i).first->second;
    EXPECT_TRUE(share_memory(*tuned.weights[i], *tuned.weights[other])) << linear.name;
    EXPECT_FALSE(share_memory(*tuned.weights[i], *tuned.weights[0])) << linear.name;  // q_proj is no expert's
  }
  EXPECT_EQ(first.size(), 2U);
}

TEST(TunedExpertsTogether, LieInFrontOfTheOtherGradients) {
  const Mixture mixture(ExpertsCase{});
  Block block = mixture.make();
  std::map<std::string, const void*> places;
  TuneObserver observer;
  observer.on_gradients = [&](const StepGradients& step) {
    for (std::size_t i = 0; i < step.names.size(); ++i) places[step.names[i]] = step.gradients[i].const_data_ptr();
  };
  tune_mixture(mixture, block, {}, observer);
  const void* last_expert = nullptr;
  const void* first_other = places.at("self_attn.q_proj");
  for (const Linear& linear : block.linears()) {
    const void* place = places.at(linear.name);
    if (linear.expert >= 0) last_expert = std::max(last_expert, place, std::less<>());
    if (linear.expert < 0) first_other = std::min(first_other, place, std::less<>());
  }
  EXPECT_TRUE(std::less<>()(last_expert, first_other));
}

// Experts of every kind of scheme, with an expert that no token reaches: its weights are rounded to nearest, on scales
// that readers can divide by.
class UnreachedExpert : public ::testing::TestWithParam<ExpertsCase> {};

TEST_P(UnreachedExpert, HasScales) {
  Mixture mixture(GetParam());
  std::size_t compared = 0;
  for (std::size_t i = 0; i < mixture.weights.weights.size(); ++i) {
    if (mixture.model.linears(0)[i].expert != 5) continue;
    mixture.weights.weights[i][0].zero_();  // groups without weights
    if (GetParam().search) {
      EXPECT_EQ(mixture.importance[i].abs().max().item<float>(), 0);
    }
  }
  Block block = mixture.make();
  const TunedBlock tuned = tune_mixture(mixture, block, GetParam());
  for (std::size_t i = 0; i < tuned.weights.size(); ++i) {
    if (block.linears()[i].expert != 5) continue;
    ++compared;
    const std::string& name = block.linears()[i].name;
    const Tensor& scale = tuned.weights[i]->scale;
    EXPECT_TRUE(scale.isfinite().all().item<bool>()) << name;
    EXPECT_TRUE(scale.ne(0).all().item<bool>()) << name;
    const Tensor& original = mixture.weights.weights[i];
    const Tensor left = dequantize(*tuned.weights[i], torch::kFloat32) - original;
    EXPECT_LT(left.square().mean().item<float>(), 0.05 * original.square().mean().item<float>()) << name;
  }
  EXPECT_EQ(compared, 3U);
}

INSTANTIATE_TEST_SUITE_P(
    Schemes, UnreachedExpert,
    ::testing::Values(
        ExpertsCase{.name = "sym", .scheme = {4, 32, true, true, true, 1}},
        ExpertsCase{.name = "sym_search", .scheme = {4, 32, true, true, true, 1}, .search = true},
        ExpertsCase{.name = "asym", .scheme = {4, 32, false, true, true, 1}},
        ExpertsCase{.name = "asym_search", .scheme = {4, 32, false, true, true, 1}, .search = true},
        ExpertsCase{.name = "mx_fp", .scheme = {.bits = 4, .group_size = 32, .type = WeightType::kMxFp4}},
        ExpertsCase{.name = "mx_fp_search", .scheme = {.bits = 4, .group_size = 32, .type = WeightType::kMxFp4},
                    .search = true},
        ExpertsCase{.name = "nv_fp", .scheme = {.bits = 4, .group_size = 16, .type = WeightType::kNvFp4}},
        ExpertsCase{.name = "nv_fp_search", .scheme = {.bits = 4, .group_size = 16, .type = WeightType::kNvFp4},
                    .search = true}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace roundtable
