// Reading and rounding.
#include "round/source.h"

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cstring>

#include "base/error.h"
#include "export/registry.h"
#include "tests/round/made_up.h"

namespace roundtable {
namespace {

testing::MadeUpTensor random_matrix(const std::string& name, std::int64_t out, std::int64_t in) {
  const torch::Tensor values = torch::randn({out, in}).to(torch::kBFloat16);
  const auto* bytes = static_cast<const char*>(values.const_data_ptr());
  return {name, ElementType::kBF16, {out, in}, {bytes, bytes + values.nbytes()}};
}

struct Problem {
  TemporaryFolder folder;
  Config config;

  explicit Problem(std::vector<testing::MadeUpTensor> tensors) {
    testing::write_made_up(folder.path(), std::move(tensors), {{"model_type", "made_up"}});
    config.model.path = folder.path();
    config.quantization.group_size = 32;
  }
  RoundedSource source(const char* format) const {
    return RoundedSource(config, {&format_named(format, "")}, torch::kCPU);
  }
};

TEST(RoundedSource, SearchesScalesWithInputsThatCountTheSame) {
  torch::manual_seed(3);
  Problem problem({random_matrix("m.h.0.a.weight", 64, 128)});
  torch::Tensor weight = torch::empty({64, 128}, torch::kBFloat16);
  const SafetensorsFile file(problem.folder.path() + "/model.safetensors");
  file.read(*file.find("m.h.0.a.weight"), weight.data_ptr());
  const LinearSpec layer{"m.h.0.a", 64, 128};
  std::map<bool, double> errors;
  for (const bool search : {true, false}) {
    problem.config.tuning.init_scale = search ? InitScale::kSearch : InitScale::kOne;
    const QuantizedWeight have = problem.source("auto_round").read_layer(layer, format_named("auto_round", ""));
    RoundingParameters parameters = make_rounding_parameters(weight, have.scheme);
    if (search) search_scales(weight, parameters, have.scheme, torch::ones({128}));
    const QuantizedWeight want = quantize(weight, parameters, have.scheme);
    EXPECT_TRUE(torch::equal(have.q, want.q));
    EXPECT_TRUE(torch::equal(have.scale, want.scale));
    EXPECT_TRUE(torch::equal(have.zero_point, want.zero_point));
    errors[search] = (dequantize(have, torch::kFloat32) - weight.to(torch::kFloat32)).norm().item<double>();
  }
  EXPECT_LT(errors[true], 0.99 * errors[false]);
}

TEST(RoundedSource, RefusesAScaleThatNoFormatHolds) {
  torch::manual_seed(3);
  testing::MadeUpTensor large = random_matrix("m.h.0.a.weight", 32, 64);
  const torch::Tensor most = torch::full({1}, 1e6).to(torch::kBFloat16);
  std::memcpy(large.bytes.data(), most.const_data_ptr(), 2);
  const Problem problem({large});
  const RoundedSource source = problem.source("auto_round");
  try {
    source.read_layer({"m.h.0.a", 32, 64}, format_named("auto_round", ""));
    FAIL() << "it was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kNumeric);
    EXPECT_NE(std::string(error.what()).find("layer 'm.h.0.a': its largest weight is"), std::string::npos) << error.what();
  }
}

TEST(RoundedSource, CopiesWhatItDoesNotRound) {
  torch::manual_seed(3);
  const Problem problem({random_matrix("m.h.0.a.weight", 32, 64), random_matrix("m.embed.weight", 32, 64),
                         {"m.h.0.a.bias", ElementType::kBF16, {32}}, {"m.h.0.steps", ElementType::kI64, {2, 2}}});
  const RoundedSource source = problem.source("auto_round");
  std::vector<std::string> names;
  for (const TensorSpec& tensor : source.plain()) {
    names.push_back(tensor.name);
    EXPECT_EQ(source.read_plain(tensor).sizes(), tensor.shape);
  }
  EXPECT_EQ(names, (std::vector<std::string>{"m.embed.weight", "m.h.0.a.bias", "m.h.0.steps"}));
  EXPECT_TRUE(source.is_quantized_bias("m.h.0.a.bias"));
  EXPECT_FALSE(source.is_quantized_bias("m.h.0.b.bias"));
  EXPECT_EQ(source.file_of("m.h.0.a"), "model.safetensors");
}

}  // namespace
}  // namespace roundtable
