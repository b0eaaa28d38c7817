// The interpreter: values, arguments, batches, memory, and errors with a place.
#include "graph/run/program.h"

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "graph/run/integers.h"
#include "tests/graph/counting_allocator.h"
#include "tests/graph/graph_builder.h"
#include "tests/io/throws_error.h"

namespace roundtable::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// The manifest of one kind, from a folder that is gone afterwards.
struct Loaded {
  GraphManifest manifest;
  TensorsByName constants;
  const GraphPart& kind() const { return manifest.kinds.front(); }
};

Loaded load(const GraphFiles& files) {
  const TemporaryFolder folder;
  Loaded loaded;
  loaded.manifest = read_manifest(files.write(folder));
  loaded.constants = read_constants(folder.path(), loaded.manifest);
  return loaded;
}

torch::Tensor run(const Loaded& loaded, const torch::Tensor& hidden) {
  const Program program(loaded.kind(), loaded.constants, torch::kCPU, loaded.manifest.batch);
  return program.forward({hidden, {}, {}}, random_parameters(loaded.kind())).hidden;
}

TEST(Program, RunsWhatTheFileSays) {
  PartBuilder kind;
  const json hidden = kind.input("hidden");
  const json table = kind.input("constant", "table");
  const json batch = kind.call("aten::sym_size.int", {hidden, 0});
  const json flat = kind.call("aten::reshape", {hidden, json::array({kind.call("int::mul", {batch, 4}), 8})});
  const auto parts = kind.call_all("aten::split_with_sizes", {flat, json::array({2, 6}), 1}, 2);
  const json scaled = kind.call("aten::mul.Tensor", {parts[0], batch});              // an int as a number
  const json capped = kind.call("aten::clamp", {parts[1], {{"float", "-inf"}}, 1});  // an int as a number
  const json joined = kind.call("aten::cat", {json::array({scaled, capped}), -1});
  const json back = kind.call("aten::view", {joined, json::array({batch, 4, 8})});
  const json zeros = kind.call(
      "aten::zeros",
      {json::array({batch, 1, 1}), {{"dtype", "float32"}}, {{"layout", "strided"}}, {{"device", true}}, false});
  const json copy = kind.call("aten::clone", {back, {{"memory_format", "contiguous_format"}}});
  const json filled = kind.call("aten::fill_.Scalar", {copy, 3});
  const json sum = kind.call("aten::add.Tensor", {back, zeros});
  kind.output(kind.call("aten::add.Tensor", {sum, kind.call("aten::mul.Tensor", {table, filled})}));
  GraphFiles files = model_of(kind, {4, 8});
  files.constants["table"] = torch::arange(8).to(torch::kFloat32);
  const torch::Tensor x = torch::randn({3, 4, 8});
  const torch::Tensor expected =
      torch::cat({x.narrow(2, 0, 2) * 3, x.narrow(2, 2, 6).clamp_max(1)}, 2) + 3 * torch::arange(8);
  EXPECT_TRUE(torch::equal(run(load(files), x), expected));
}

TEST(Program, IntsAreThoseOfPython) {
  EXPECT_EQ(int_result("int::add", {2, 3}), 5);
  EXPECT_EQ(int_result("int::sub", {2, 3}), -1);
  EXPECT_EQ(int_result("int::mul", {2, 3}), 6);
  EXPECT_EQ(int_result("int::floordiv", {-7, 2}), -4);
  EXPECT_EQ(int_result("int::floordiv", {7, -2}), -4);
  EXPECT_EQ(int_result("int::floordiv", {-6, 2}), -3);
  EXPECT_EQ(int_result("int::mod", {-7, 2}), 1);
  EXPECT_EQ(int_result("int::mod", {7, -2}), -1);
  EXPECT_EQ(int_result("int::min", {2, 3}), 2);
  EXPECT_EQ(int_result("int::max", {2, 3}), 3);
  EXPECT_EQ(int_result("int::neg", {2}), -2);
  constexpr std::int64_t kLeast = std::numeric_limits<std::int64_t>::min();
  EXPECT_THROW(int_result("int::mod", {1, 0}), c10::Error);
  EXPECT_THROW(int_result("int::floordiv", {kLeast, -1}), c10::Error);
  EXPECT_THROW(int_result("int::add", {kLeast, -1}), c10::Error);
  EXPECT_THROW(int_result("int::sub", {kLeast, 1}), c10::Error);
  EXPECT_THROW(int_result("int::mul", {kLeast, 2}), c10::Error);
  EXPECT_THROW(int_result("int::neg", {kLeast}), c10::Error);
}

// A number next to a tensor does not decide the dtype of the result, and an int may stand for a float.
TEST(Program, NumbersDoNotPromote) {
  PartBuilder kind(torch::kBFloat16);
  const json hidden = kind.input("hidden");
  const json sum = kind.call("aten::add.Tensor", {hidden, 0.5});
  const json batch = kind.call("aten::sym_size.int", {hidden, 0});
  kind.output(kind.call("aten::layer_norm", {sum, json::array({8}), nullptr, nullptr, batch}));
  const torch::Tensor x = torch::randn({1, 4, 8}).to(torch::kBFloat16);
  EXPECT_TRUE(torch::equal(run(load(model_of(kind, {4, 8})), x), torch::layer_norm(x + 0.5, {8}, {}, {}, 1.0)));
}

TEST(Program, RegionsWithoutGradientsHaveNone) {
  PartBuilder kind;
  const json hidden = kind.input("hidden");
  const json constant = kind.call("aten::mul.Tensor", {hidden, 2.0}, /*no_grad=*/true);
  // The very tensor that it was given: a later use still has its gradient.
  const json same = kind.call("aten::to.dtype", {hidden, {{"dtype", "float32"}}}, /*no_grad=*/true);
  kind.output(kind.call("aten::mul.Tensor", {constant, same}));
  const torch::Tensor x = torch::randn({2, 4, 8}).requires_grad_();
  run(load(model_of(kind, {4, 8})), x).sum().backward();
  EXPECT_TRUE(torch::equal(x.grad(), 2 * x.detach()));
}

TEST(Program, ComplexConstantsRotate) {
  PartBuilder kind;
  const json hidden = kind.input("hidden");
  const json table = kind.input("constant", "table");
  const json pairs = kind.call("aten::reshape", {hidden, json::array({-1, 4, 4, 2})});
  const json turned = kind.call("aten::mul.Tensor", {kind.call("aten::view_as_complex", {pairs}), table});
  kind.output(kind.call("aten::flatten.using_ints", {kind.call("aten::view_as_real", {turned}), 2}));
  GraphFiles files = model_of(kind, {4, 8});
  files.model["kinds"][0]["inputs"][1]["complex"] = true;
  files.constants["table"] = torch::tensor({{0.0f, 1.0f}, {0.0f, 1.0f}, {0.0f, 1.0f}, {0.0f, 1.0f}});
  const torch::Tensor x = torch::randn({2, 4, 8});
  const torch::Tensor split = x.view({2, 4, 4, 2});
  const torch::Tensor expected = torch::stack({-split.select(3, 1), split.select(3, 0)}, 3).flatten(2);
  EXPECT_TRUE(torch::equal(run(load(files), x), expected));
}

// embed -> carried -> head, and token ids in a block.
TEST(Program, TensorsFlowBetweenParts) {
  PartBuilder kind;
  const json hidden = kind.input("hidden");
  const json tokens = kind.input("tokens");
  const json seen = kind.input("carried", "seen");
  const json again = kind.input("tokens");
  const json shift = kind.call("aten::unsqueeze", {kind.call("aten::add.Tensor", {tokens, seen}), -1});
  kind.output(kind.call(
      "aten::add.Tensor",
      {hidden, kind.call("aten::mul.Tensor",
                         {shift, kind.call("aten::ne.Scalar", {kind.call("aten::unsqueeze", {again, -1}), 0})})}));
  kind.output(kind.call("aten::add.Tensor", {seen, 1}), "carried", "more");
  GraphFiles files = model_of(kind, {4, 8});
  files.model["boundary"]["ids"] = {{"shape", {4}}, {"dtype", "int64"}};
  files.model["boundary"]["more"] = {{"shape", {4}}, {"dtype", "int64"}};
  files.model["embed"]["outputs"].push_back({{"value", 1}, {"kind", "carried"}, {"name", "ids"}});
  files.model["blocks"][0]["takes"] = {{"seen", "ids"}};
  files.model["blocks"][0]["gives"] = {{"more", "more"}};
  const Loaded loaded = load(files);
  const torch::Tensor ids = torch::tensor({{1, 2, 3, 4}});
  const Program embed(loaded.manifest.embed, {}, torch::kCPU), block(loaded.kind(), {}, torch::kCPU);
  const Program head(loaded.manifest.head, {}, torch::kCPU);
  const TensorsByName table{{"embed.weight", torch::ones({16, 8})}};
  const GraphTensors start = embed.forward({{}, ids, {}}, table);
  const GraphTensors middle = block.forward({start.hidden, ids, {{"seen", start.carried.at("ids")}}}, {});
  EXPECT_TRUE(torch::equal(middle.carried.at("more"), ids + 1));
  EXPECT_TRUE(torch::equal(middle.hidden, (1 + 2 * ids).unsqueeze(-1).expand({1, 4, 8}).to(torch::kFloat32)));
  const torch::Tensor logits = head.forward({middle.hidden, {}, {}}, {{"lm_head.weight", torch::ones({16, 8})}}).hidden;
  EXPECT_EQ(logits.sizes(), (std::vector<std::int64_t>{1, 4, 16}));
}

TEST(Program, AFixedBatchRunsPartByPart) {
  PartBuilder kind;
  const json hidden = kind.input("hidden");
  const json table = kind.input("constant", "table");  // of the two samples that the graph takes
  const json tokens = kind.input("tokens");
  const json sum = kind.call(
      "aten::add.Tensor", {kind.call("aten::add.Tensor", {hidden, table}), kind.call("aten::unsqueeze", {tokens, -1})});
  kind.output(sum);
  GraphFiles files = model_of(kind, {4, 8});
  files.model["batch"] = 2;
  files.constants["table"] = torch::randn({2, 4, 8});
  const Loaded loaded = load(files);
  const torch::Tensor x = torch::randn({6, 4, 8}), ids = torch::arange(24).view({6, 4});
  const Program program(loaded.kind(), loaded.constants, torch::kCPU, 2);
  EXPECT_TRUE(torch::equal(program.forward({x, ids, {}}, {}).hidden,
                           x + files.constants["table"].repeat({3, 1, 1}) + ids.unsqueeze(-1)));
  EXPECT_EQ(program.forward({x.narrow(0, 0, 2), ids.narrow(0, 0, 2), {}}, {}).hidden.size(0), 2);
}

TEST(Program, ErrorsNameTheNode) {
  PartBuilder kind;
  const json hidden = kind.input("hidden");
  kind.output(kind.call("aten::view", {kind.call("aten::add.Tensor", {hidden, 1}), json::array({7, 7})}));
  const Loaded loaded = load(model_of(kind, {4, 8}));
  EXPECT_BAD_INPUT(run(loaded, torch::randn({1, 4, 8})),
                   AllOf(HasSubstr("model.json: kinds[0].nodes[1] (aten::view): "), HasSubstr("shape '[7, 7]'"),
                         HasSubstr("export the model again")));
}

TEST(Program, AListOfAnotherLengthIsAnError) {
  PartBuilder kind;
  kind.output(kind.call_all("aten::split.Tensor", {kind.input("hidden"), 4, -1}, 3)[0]);
  EXPECT_BAD_INPUT(run(load(model_of(kind, {4, 8})), torch::randn({1, 4, 8})),
                   AllOf(HasSubstr("nodes[0] (aten::split.Tensor)"), HasSubstr("it gives 2 tensors, and 'out' has 3")));
}

TEST(Program, TooLittleMemoryIsTheMachines) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer ends a program that asks for so much";
#endif
  PartBuilder kind;
  const json hidden = kind.input("hidden");
  const json huge = kind.call("aten::new_zeros", {hidden, json::array({std::int64_t{1} << 40, 1 << 10})});
  kind.output(kind.call("aten::add.Tensor", {hidden, kind.call("aten::sum", {huge})}));
  EXPECT_ERROR(run(load(model_of(kind, {4, 8})), torch::randn({1, 4, 8})), ExitCode::kMachine,
               AllOf(HasSubstr("nodes[0]"), HasSubstr("there is not enough memory"), HasSubstr("micro_batch")));
}

// Ten steps, each of which makes a tensor: without gradients two are alive at a time, whatever the length of the chain.
TEST(Program, FreesAValueAtItsLastUse) {
  PartBuilder kind;
  json x = kind.input("hidden");
  for (int i = 0; i < 10; ++i) x = kind.call("aten::mul.Tensor", {x, i % 2 == 0 ? x : kind.call("aten::neg", {x})});
  kind.output(x);
  const Loaded loaded = load(model_of(kind, {64, 256}));
  const torch::NoGradGuard no_grad;
  const torch::Tensor hidden = torch::zeros({4, 64, 256});
  const Program program(loaded.kind(), {}, torch::kCPU);
  program.forward({hidden, {}, {}}, {});
  const CountingAllocator allocator;
  const torch::Tensor out = program.forward({hidden, {}, {}}, {}).hidden;
  EXPECT_LE(CountingAllocator::peak_above(0), 3 * hidden.nbytes() + 4096);
  EXPECT_EQ(CountingAllocator::now(), hidden.nbytes());
}

}  // namespace
}  // namespace roundtable::testing
