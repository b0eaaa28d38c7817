// The selective scan, both ways that it is computed, against the loop over tokens in fp64; and what it refuses.
#include "model/scan/selective_scan.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "graph/operators/library.h"
#include "graph/run/program.h"
#include "tests/graph/counting_allocator.h"
#include "tests/graph/graph_builder.h"
#include "tests/io/throws_error.h"

namespace roundtable::testing {
namespace {

using torch::Tensor;
using Scan = Tensor (*)(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&);

// FORMAT.md's words.
Tensor formula(const std::vector<Tensor>& x) {
  const Tensor &u = x[0], &delta = x[1], &a = x[2], &b = x[3], &c = x[4];
  Tensor h = torch::zeros({u.size(0), u.size(1), a.size(1)}, u.options());
  std::vector<Tensor> y;
  for (std::int64_t t = 0; t < u.size(2); ++t) {
    const Tensor step = delta.select(2, t).unsqueeze(-1);
    h = torch::exp(step * a) * h + step * u.select(2, t).unsqueeze(-1) * b.select(2, t).unsqueeze(1);
    y.push_back((h * c.select(2, t).unsqueeze(1)).sum(-1));
  }
  return torch::stack(y, -1);
}

struct ScanCase {
  const char* name = "";
  std::int64_t samples = 2, channels = 19, seqlen = 23, states = 16;
  torch::ScalarType dtype = torch::kFloat64;
  bool views = false;  // as models give them: B and C turned, channels behind
};

// u, delta, A, B and C.
std::vector<Tensor> leaves_of(const ScanCase& c) {
  torch::manual_seed(8);
  const auto given = [&](std::int64_t rows) {
    return c.views ? torch::randn({c.samples, c.seqlen, rows}).transpose(1, 2)
                   : torch::randn({c.samples, rows, c.seqlen});
  };
  const Tensor delta = torch::softplus(given(c.channels));
  std::vector<Tensor> leaves{given(c.channels), delta, -torch::rand({c.channels, c.states}) - 0.05, given(c.states),
                             given(c.states)};
  // Models hold A in fp32 whatever their dtype is.
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const bool wide = i == 2 && c.dtype == torch::kBFloat16;
    leaves[i] = leaves[i].to(wide ? torch::kFloat32 : c.dtype).detach().requires_grad_();
  }
  return leaves;
}

class SelectiveScan : public ::testing::TestWithParam<std::tuple<ScanCase, Scan>> {};

TEST_P(SelectiveScan, IsTheFormula) {
  const auto& [c, scan] = GetParam();
  const std::vector<Tensor> x = leaves_of(c);
  std::vector<Tensor> wide;
  for (const Tensor& leaf : x) wide.push_back(leaf.detach().to(torch::kFloat64).requires_grad_());
  const double tolerance = c.dtype == torch::kFloat64 ? 1e-12 : c.dtype == torch::kFloat32 ? 1e-5 : 1e-2;
  const Tensor y = scan(x[0], x[1], x[2], x[3], x[4]), expected = formula(wide);
  EXPECT_EQ(y.scalar_type(), c.dtype);
  EXPECT_LE(relative_difference(y, expected), tolerance);
  const Tensor upstream = torch::randn(y.sizes()).to(c.dtype);
  const auto ours = torch::autograd::grad({y}, x, {upstream});
  const auto theirs = torch::autograd::grad({expected}, wide, {upstream.to(torch::kFloat64)});
  for (std::size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(ours[i].scalar_type(), x[i].scalar_type());
    EXPECT_EQ(ours[i].sizes(), x[i].sizes());
    EXPECT_LE(relative_difference(ours[i], theirs[i]), tolerance) << "argument " << i;
  }
}

const ScanCase kCases[] = {{.name = "fp64"},
                           {.name = "fp32", .dtype = torch::kFloat32},
                           {.name = "bf16", .dtype = torch::kBFloat16},
                           {.name = "views", .dtype = torch::kFloat32, .views = true},
                           {.name = "odd_states", .states = 5, .dtype = torch::kFloat32},
                           {.name = "many_states", .states = 40, .dtype = torch::kFloat32},
                           {.name = "few_channels", .channels = 3},
                           {.name = "one_token", .seqlen = 1},
                           {.name = "one_of_each", .samples = 1, .channels = 1, .seqlen = 2, .states = 1}};

INSTANTIATE_TEST_SUITE_P(Cases, SelectiveScan,
                         ::testing::Combine(::testing::ValuesIn(kCases),
                                            ::testing::Values(&scan_by_channel, &scan_in_chunks)),
                         [](const auto& info) {
                           const bool by_channel = std::get<1>(info.param) == &scan_by_channel;
                           const std::string name = std::get<0>(info.param).name;
                           return name + (by_channel ? "_by_channel" : "_in_chunks");
                         });

// Differences of the function itself, with no formula but the operator's.
TEST(SelectiveScanGradient, IsThatOfDifferences) {
  constexpr double kStep = 1e-6;
  const std::vector<Tensor> x = leaves_of({.samples = 1, .channels = 3, .seqlen = 5, .states = 2});
  const Tensor upstream = torch::randn({1, 3, 5}, torch::kFloat64);
  const auto loss = [&](const std::vector<Tensor>& at) {
    return (graph_selective_scan(at[0], at[1], at[2], at[3], at[4]) * upstream).sum();
  };
  const auto gradients = torch::autograd::grad({loss(x)}, x);
  const torch::NoGradGuard no_gradients;
  for (std::size_t i = 0; i < x.size(); ++i) {
    Tensor differences = torch::zeros_like(x[i]);
    for (std::int64_t k = 0; k < x[i].numel(); ++k) {
      const auto moved = [&](double by) {
        std::vector<Tensor> there = x;
        there[i] = x[i].clone();
        there[i].view(-1)[k] += by;
        return loss(there).item<double>();
      };
      differences.view(-1)[k] = (moved(kStep) - moved(-kStep)) / (2 * kStep);
    }
    EXPECT_LE(relative_difference(gradients[i], differences), 1e-7) << "argument " << i;
  }
}

// Sums have one order, whatever the number of threads.
TEST(SelectiveScanGradient, DoesNotDependOnThreads) {
  const std::vector<Tensor> x = leaves_of({.dtype = torch::kFloat32});
  const auto all = [&] {
    const Tensor y = scan_by_channel(x[0], x[1], x[2], x[3], x[4]);
    auto found = torch::autograd::grad({y}, x, {torch::ones_like(y)});
    found.push_back(y);
    return found;
  };
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = all();
  at::set_num_threads(3);
  const auto three = all();
  at::set_num_threads(threads);
  for (std::size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(torch::equal(one[i], three[i])) << i;
}

// Never a tensor of tokens, channels and states.
TEST(SelectiveScanMemory, HoldsNoStatesOfAllTokens) {
  for (const Scan scan : {Scan{&scan_by_channel}, Scan{&scan_in_chunks}}) {
    const ScanCase c{.samples = 1, .channels = 64, .seqlen = 400, .dtype = torch::kFloat32};
    const std::vector<Tensor> x = leaves_of(c);
    const Tensor upstream = torch::randn({1, c.channels, c.seqlen});
    const auto states = static_cast<std::size_t>(c.channels * c.seqlen * c.states * 4);
    const CountingAllocator allocator;
    const Tensor y = scan(x[0], x[1], x[2], x[3], x[4]);
    EXPECT_LT(CountingAllocator::peak_above(0), states / 2);
    torch::autograd::grad({y}, x, {upstream});
    EXPECT_LT(CountingAllocator::peak_above(0), states);
  }
}

TEST(SelectiveScanShapes, AreChecked) {
  const Tensor u = torch::randn({2, 6, 4}), a = torch::randn({6, 3}), b = torch::randn({2, 3, 4});
  EXPECT_NO_THROW(graph_selective_scan(u, u, a, b, b));
  const Tensor no_u = u.narrow(2, 0, 0), no_b = b.narrow(2, 0, 0);
  EXPECT_EQ(graph_selective_scan(no_u, no_u, a, no_b, no_b).numel(), 0);
  const Tensor whole = torch::ones({2, 6, 4}, torch::kInt64), none = torch::randn({6, 0});
  const std::vector<std::vector<Tensor>> wrong{
      {u[0], u[0], a, b, b},
      {u, u.narrow(2, 0, 3), a, b, b},
      {u, u, a.t(), b, b},
      {u, u, a.narrow(0, 0, 5), b, b},
      {u, u, a[0], b, b},
      {u, u, none, b.narrow(1, 0, 0), b.narrow(1, 0, 0)},
      {u, u, a, b.narrow(0, 0, 1), b.narrow(0, 0, 1)},
      {u, u, a, b.narrow(1, 0, 2), b.narrow(1, 0, 2)},
      {u, u, a, b.narrow(2, 0, 3), b.narrow(2, 0, 3)},
      {u, u, a, b, b.narrow(1, 0, 2)},
      {u, u, a, b[0], b[0]},
      {whole, whole, a, b, b},
  };
  for (std::size_t i = 0; i < wrong.size(); ++i) {
    const auto& x = wrong[i];
    EXPECT_THROW(graph_selective_scan(x[0], x[1], x[2], x[3], x[4]), c10::Error) << i;
  }
}

// A graph that gives it what it cannot take is the file's fault.
TEST(SelectiveScanShapes, ErrorsNameTheNode) {
  PartBuilder kind;
  const json hidden = kind.input("hidden");
  const json decays = kind.parameter("A", {4, 2});
  kind.output(kind.call("rt::selective_scan", {hidden, hidden, decays, hidden, hidden}));
  const TemporaryFolder folder;
  const GraphManifest manifest = read_manifest(model_of(kind, {4, 8}).write(folder));
  const Program program(manifest.kinds.front(), {}, torch::kCPU);
  EXPECT_BAD_INPUT(
      program.forward({torch::randn({1, 4, 8}), {}, {}}, random_parameters(manifest.kinds.front())),
      ::testing::AllOf(::testing::HasSubstr("model.json: kinds[0].nodes[0] (rt::selective_scan): "),
                       ::testing::HasSubstr("B and C must both be [batch, states, seqlen]")));
}

}  // namespace
}  // namespace roundtable::testing
