// The product of all experts against a loop over them with LibTorch's autograd.
#include "model/forward/grouped_linear.h"

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "model/forward/grouped_mm.h"
#include "model/load/stacked_rows.h"

namespace roundtable {
namespace {

using torch::Tensor;

struct GroupedCase {
  std::string name;
  std::vector<std::int64_t> ends;  // of the experts' rows, of 300
  torch::ScalarType dtype = torch::kFloat32;
  bool bias = false;
  bool alternating = false;  // outputs of two layers come by turns
  std::size_t layers = 2;    // of an expert
  bool stacked = false;      // layers lie below each other in memory
};

class GroupedLinear : public ::testing::TestWithParam<GroupedCase> {
 protected:
  static constexpr std::int64_t kRows = 300, kIn = 48, kOut = 32;

  GroupedLinear() {
    torch::manual_seed(8);
    const GroupedCase& c = GetParam();
    for (std::size_t e = 0; e < c.ends.size(); ++e) {
      for (std::size_t i = 0; i < c.layers; ++i) {
        Linear layer;
        layer.name = std::to_string(e) + "." + std::to_string(i);
        layer.weight = torch::randn({kOut, kIn}).to(c.dtype);
        if (c.bias) layer.bias = torch::randn({kOut}).to(c.dtype);
        layer.weight.requires_grad_();
        layers_.push_back(layer);
      }
    }
    if (c.stacked) stack();
    for (std::size_t e = 0; e < c.ends.size(); ++e) {
      ExpertLayers expert;
      for (std::size_t i = 0; i < c.layers; ++i) expert.side_by_side.push_back(&layers_[e * c.layers + i]);
      if (c.alternating) expert.order = torch::arange(2 * kOut).view({2, kOut}).t().flatten();
      experts_.push_back(expert);
    }
    rows_ = torch::randn({kRows, kIn}).to(c.dtype).requires_grad_();
    upstream_ = torch::randn({kRows, width()}).to(c.dtype);
  }

  void stack() {
    std::vector<Tensor> weights;
    for (const Linear& layer : layers_) weights.push_back(layer.weight.detach());
    weights = stacked_copies(weights, torch::kCPU, std::vector<torch::ScalarType>(weights.size(), GetParam().dtype));
    for (std::size_t i = 0; i < layers_.size(); ++i) layers_[i].weight = weights[i].requires_grad_();
  }

  std::int64_t width() const { return static_cast<std::int64_t>(GetParam().layers) * kOut; }

  // Expert after expert, each product by itself.
  Tensor plain() const {
    std::vector<Tensor> parts;
    std::int64_t begin = 0;
    for (std::size_t e = 0; e < experts_.size(); ++e) {
      const std::int64_t end = GetParam().ends[e];
      std::vector<Tensor> own;
      for (const Linear* layer : experts_[e].side_by_side) {
        own.push_back(torch::linear(rows_.slice(0, begin, end), layer->weight, layer->bias));
      }
      const Tensor joined = torch::cat(own, -1);
      parts.push_back(experts_[e].order.defined() ? joined.index_select(-1, experts_[e].order) : joined);
      begin = end;
    }
    parts.push_back(torch::zeros({kRows - begin, width()}, rows_.options().requires_grad(false)));
    return torch::cat(parts);
  }

  // Of the rows and of each weight that got one.
  struct Gradients {
    Tensor rows;
    std::map<std::string, Tensor> weights;
  };
  Gradients gradients_of(const Tensor& y) {
    y.backward(upstream_);
    Gradients found{rows_.grad(), {}};
    rows_.mutable_grad() = Tensor();
    for (Linear& layer : layers_) {
      if (layer.weight.grad().defined()) found.weights[layer.name] = layer.weight.grad();
      layer.weight.mutable_grad() = Tensor();
    }
    return found;
  }

  // Mostly to the bit. In bf16 a sum over rows has zeros in addition, and may be summed in another order; the share of
  // stacked layers in the gradient of the rows is one sum.
  static void expect_close(const Tensor& found, const Tensor& expected, double tolerance) {
    const Tensor wide = expected.to(torch::kFloat64);
    EXPECT_LE((found.to(torch::kFloat64) - wide).norm().item<double>(), tolerance * wide.norm().item<double>());
  }
  static void expect_same_rows(const Tensor& found, const Tensor& expected) {
    const bool bf16 = GetParam().dtype == torch::kBFloat16;
    expect_close(found, expected, !GetParam().stacked ? 0 : bf16 ? 6e-3 : 1e-6);
  }
  static void expect_same_weight(const Tensor& found, const Tensor& expected) {
    expect_close(found, expected, GetParam().dtype == torch::kBFloat16 ? 1e-3 : 0);
  }

  bool has_rows(std::size_t layer) const {
    const std::size_t e = layer / GetParam().layers;
    return GetParam().ends[e] > (e == 0 ? 0 : GetParam().ends[e - 1]);
  }

  std::mutex mutex_;
  std::vector<Linear> layers_;
  std::vector<ExpertLayers> experts_;
  Tensor rows_, upstream_;
};

TEST_P(GroupedLinear, IsTheLoopOverTheExperts) {
  const Tensor y = grouped_linear(rows_, experts_, GetParam().ends);
  const Tensor wanted = plain();
  EXPECT_TRUE(torch::equal(y, wanted));
  const Gradients found = gradients_of(y), expected = gradients_of(wanted);
  expect_same_rows(found.rows, expected.rows);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const std::string& name = layers_[i].name;
    ASSERT_EQ(found.weights.contains(name), has_rows(i)) << name;
    if (has_rows(i)) expect_same_weight(found.weights.at(name), expected.weights.at(name));
  }
}

TEST_P(GroupedLinear, HandsEachGradientOn) {
  const Gradients expected = gradients_of(plain());
  std::map<std::string, Tensor> taken;
  std::vector<std::string> noted;
  std::mutex mutex;
  for (Linear& layer : layers_) {
    layer.take_gradient = [&](const Tensor& gradient) {
      const std::scoped_lock lock(mutex);
      EXPECT_FALSE(taken.contains(layer.name)) << layer.name;
      taken[layer.name] = gradient.clone();
    };
    layer.gradient_taken = [&] {
      EXPECT_TRUE(taken.contains(layer.name)) << layer.name;
      noted.push_back(layer.name);
    };
  }
  const Gradients found = gradients_of(grouped_linear(rows_, experts_, GetParam().ends));
  expect_same_rows(found.rows, expected.rows);
  EXPECT_TRUE(found.weights.empty());
  std::vector<std::string> worked;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (!has_rows(i)) continue;
    worked.push_back(layers_[i].name);
    ASSERT_TRUE(taken.contains(layers_[i].name)) << layers_[i].name;
    expect_same_weight(taken.at(layers_[i].name), expected.weights.at(layers_[i].name));
  }
  EXPECT_EQ(taken.size(), worked.size());
  EXPECT_EQ(noted, worked);  // in one order on every rank
}

// Where the rows ask for no gradient, as behind layers that are not tuned, the weights' are made all the same.
TEST_P(GroupedLinear, NeedsNoGradientOfTheRows) {
  const Gradients expected = gradients_of(plain());
  std::map<std::string, Tensor> taken;
  std::mutex mutex;
  for (Linear& layer : layers_) {
    layer.take_gradient = [&](const Tensor& gradient) {
      const std::scoped_lock lock(mutex);
      taken[layer.name] = gradient.clone();
    };
  }
  const Tensor y = grouped_linear(rows_.detach(), experts_, GetParam().ends);
  if (!std::any_of(GetParam().ends.begin(), GetParam().ends.end(), [](std::int64_t end) { return end > 0; })) {
    EXPECT_FALSE(y.requires_grad());
    return;
  }
  y.backward(upstream_);
  std::size_t worked = 0;
  for (std::size_t i = 0; i < layers_.size(); ++i) worked += has_rows(i) ? 1 : 0;
  EXPECT_EQ(taken.size(), worked);
  for (const auto& [name, gradient] : taken) expect_same_weight(gradient, expected.weights.at(name));
}

TEST_P(GroupedLinear, ObserversSeeEachLayerWithRows) {
  std::vector<std::string> seen;
  const torch::NoGradGuard no_grad;
  const LinearObserver observe = [&](const Linear& layer, const Tensor& x, const Tensor& own) {
    seen.push_back(layer.name);
    EXPECT_TRUE(torch::equal(own, torch::linear(x, layer.weight, layer.bias))) << layer.name;
  };
  const Tensor y = grouped_linear(rows_, experts_, GetParam().ends, {}, observe);
  EXPECT_FALSE(y.requires_grad());
  std::vector<std::string> expected;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (has_rows(i)) expected.push_back(layers_[i].name);
  }
  EXPECT_EQ(seen, expected);
}

// Whether ranks divide experts or not, an expert's numbers have the same bits.
TEST_P(GroupedLinear, AnExpertsBitsDoNotDependOnTheOthers) {
  std::map<std::string, Tensor> all, alone;
  const auto run = [&](std::map<std::string, Tensor>& taken, const Tensor& rows, const std::vector<ExpertLayers>& experts,
                       const std::vector<std::int64_t>& ends, const Tensor& upstream) {
    for (Linear& layer : layers_) layer.take_gradient = [&](const Tensor& gradient) {
      const std::scoped_lock lock(mutex_);
      taken[layer.name] = gradient.clone();
    };
    const Tensor leaf = rows.detach().requires_grad_();
    const Tensor y = grouped_linear(leaf, experts, ends);
    if (y.requires_grad()) y.backward(upstream);
    return std::pair{y.detach(), leaf.grad()};
  };
  const auto& ends = GetParam().ends;
  const auto [y, dx] = run(all, rows_, experts_, ends, upstream_);
  for (std::size_t e = 0; e < ends.size(); ++e) {
    const std::int64_t begin = e == 0 ? 0 : ends[e - 1], size = ends[e] - begin;
    if (size == 0) continue;
    const auto own = [&](const Tensor& tensor) { return tensor.narrow(0, begin, size); };
    const auto [y_alone, dx_alone] = run(alone, own(rows_), {experts_[e]}, {size}, own(upstream_));
    EXPECT_TRUE(torch::equal(y_alone, own(y)));
    EXPECT_TRUE(torch::equal(dx_alone, own(dx)));
  }
  ASSERT_EQ(all.size(), alone.size());
  for (const auto& [name, gradient] : all) EXPECT_TRUE(torch::equal(gradient, alone.at(name))) << name;
}

// As on a device that has the kernel. LibTorch has the operator on a CPU, too.
TEST_P(GroupedLinear, IsLibTorchsGroupedProduct) {
  const Gradients expected = gradients_of(plain());
  stack();
  std::map<std::string, Tensor> taken;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].take_gradient = [&, i](const Tensor& gradient) { taken[layers_[i].name] = gradient.clone(); };
  }
  const auto y = grouped_mm_linear(rows_, experts_, GetParam().ends, torch::tensor(GetParam().ends, torch::kInt32));
  ASSERT_EQ(y.has_value(), !GetParam().bias && !GetParam().alternating);
  if (!y) return;
  // The shares of gate and up are one sum here.
  const double tolerance = GetParam().dtype == torch::kBFloat16 ? 2e-2 : 1e-5;
  const auto is_close = [&](const Tensor& a, const Tensor& b) {
    return (a - b).abs().max().item<double>() <= tolerance * std::max(1.0, b.abs().max().item<double>());
  };
  EXPECT_TRUE(is_close(*y, plain()));
  const Gradients found = gradients_of(*y);
  EXPECT_TRUE(is_close(found.rows, expected.rows));
  std::size_t worked = 0;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (!has_rows(i)) continue;
    ++worked;
    ASSERT_TRUE(taken.contains(layers_[i].name)) << layers_[i].name;
    EXPECT_TRUE(is_close(taken.at(layers_[i].name), expected.weights.at(layers_[i].name))) << layers_[i].name;
  }
  EXPECT_EQ(taken.size(), worked);
}

TEST(GroupedMm, RefusesWhatDoesNotFit) {
  const auto fits = [](const Tensor& weight, const Tensor& other) {
    const Linear first{"a", weight, {}, 0, {}, {}}, second{"b", other, {}, 1, {}, {}};
    return grouped_mm_linear(torch::randn({4, weight.size(1)}), {{{&first}, {}}, {{&second}, {}}}, {2, 4},
                             torch::tensor({2, 4}, torch::kInt32))
        .has_value();
  };
  const Tensor both = torch::randn({16, 8}), narrow = torch::randn({16, 6});
  EXPECT_TRUE(fits(both.narrow(0, 0, 8), both.narrow(0, 8, 8)));
  EXPECT_FALSE(fits(both.narrow(0, 8, 8), both.narrow(0, 0, 8)));
  EXPECT_FALSE(fits(both.narrow(0, 0, 8), both.narrow(0, 8, 8).clone()));
  EXPECT_FALSE(fits(narrow.narrow(0, 0, 8), narrow.narrow(0, 8, 8)));
  EXPECT_FALSE(fits(both.narrow(0, 0, 6), both.narrow(0, 6, 6)));
  EXPECT_FALSE(has_grouped_mm(both));
}

INSTANTIATE_TEST_SUITE_P(
    Cases, GroupedLinear,
    ::testing::Values(GroupedCase{.name = "even", .ends = {75, 150, 225, 300}},
                      GroupedCase{.name = "bf16", .ends = {75, 150, 225, 300}, .dtype = torch::kBFloat16},
                      GroupedCase{.name = "some_without_rows", .ends = {0, 31, 31, 32, 190, 190}},
                      GroupedCase{.name = "some_without_rows_bf16",
                                  .ends = {0, 31, 31, 32, 190, 190},
                                  .dtype = torch::kBFloat16},
                      GroupedCase{.name = "all_on_one", .ends = {0, 0, 300, 300}},
                      GroupedCase{.name = "one_has_most", .ends = {10, 280, 290, 300}, .dtype = torch::kBFloat16},
                      GroupedCase{.name = "nobody", .ends = {0, 0}},
                      GroupedCase{.name = "bias", .ends = {100, 140, 260}, .bias = true},
                      GroupedCase{.name = "bias_bf16",
                                  .ends = {100, 140, 260},
                                  .dtype = torch::kBFloat16, .bias = true},
                      GroupedCase{.name = "alternating", .ends = {100, 140, 260}, .bias = true, .alternating = true},
                      GroupedCase{.name = "stacked", .ends = {20, 140, 141, 260}, .stacked = true},
                      GroupedCase{.name = "stacked_bf16",
                                  .ends = {20, 140, 141, 300},
                                  .dtype = torch::kBFloat16, .stacked = true},
                      GroupedCase{.name = "stacked_bias_bf16",
                                  .ends = {20, 140, 141, 300},
                                  .dtype = torch::kBFloat16, .bias = true, .stacked = true},
                      GroupedCase{.name = "one_layer",
                                  .ends = {100, 140, 260},
                                  .dtype = torch::kBFloat16, .layers = 1}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace roundtable
