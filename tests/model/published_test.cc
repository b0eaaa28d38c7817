// Checkpoints as they are published: matrices that are dequantized as they are read, from values worked out by hand.
// tests/peer/published_test.py compares larger ones with transformers and compressed-tensors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <optional>

#include "io/checkpoint.h"
#include "model/load/published/decode.h"
#include "model/load/published/method.h"
#include "model/load/tensor_source.h"
#include "tests/io/temporary_folder.h"
#include "tests/io/throws_error.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Decode, E4m3) {
  EXPECT_EQ(e4m3_value(0x00), 0.0f);
  EXPECT_EQ(e4m3_value(0x01), std::ldexp(1.0f, -9));  // the least
  EXPECT_EQ(e4m3_value(0x07), std::ldexp(7.0f, -9));  // the largest without a leading one
  EXPECT_EQ(e4m3_value(0x08), std::ldexp(1.0f, -6));
  EXPECT_EQ(e4m3_value(0x38), 1.0f);
  EXPECT_EQ(e4m3_value(0xb9), -1.125f);
  EXPECT_EQ(e4m3_value(0x7e), 448.0f);
  EXPECT_TRUE(std::isnan(e4m3_value(0x7f)) && std::isnan(e4m3_value(0xff)));
  for (int bits = 0; bits < 256; ++bits) {  // as LibTorch reads them
    const auto byte = static_cast<std::uint8_t>(bits);
    const float theirs =
        torch::full({1}, byte, torch::kUInt8).view(torch::kFloat8_e4m3fn).to(torch::kFloat32).item<float>();
    EXPECT_TRUE(theirs == e4m3_value(byte) || (std::isnan(theirs) && std::isnan(e4m3_value(byte)))) << bits;
  }
}

TEST(Decode, E8m0) {
  EXPECT_EQ(e8m0_value(0), std::ldexp(1.0f, -127));
  EXPECT_EQ(e8m0_value(127), 1.0f);
  EXPECT_EQ(e8m0_value(130), 8.0f);
  EXPECT_EQ(e8m0_value(254), std::ldexp(1.0f, 127));
  EXPECT_TRUE(std::isnan(e8m0_value(255)));
}

torch::Tensor bytes(const std::vector<std::int64_t>& shape, const std::vector<int>& values) {
  return torch::tensor(values, torch::kInt32).to(torch::kUInt8).view(shape);
}

TEST(Decode, BlocksAreCutAtTheEdges) {
  // 3 x 5 ones in blocks of 2 x 2: the last row and the last column have blocks of their own.
  const torch::Tensor scales = torch::arange(1, 7, torch::kFloat32).view({2, 3});
  const torch::Tensor ones = torch::full({3, 5}, 0x38, torch::kUInt8);
  const torch::Tensor want = torch::tensor({1, 1, 2, 2, 3, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6}, torch::kFloat32).view({3, 5});
  EXPECT_TRUE(dequantize_blocks(ones, Code::kE4M3, {scales, 2, 2}, torch::kFloat32).equal(want));
}

TEST(Decode, TheLowerHalfComesFirst) {
  const torch::Tensor want = torch::tensor({0.5f, -6.0f, 6.0f, 1.0f}).mul(2).view({1, 4});
  const torch::Tensor got =
      dequantize_blocks(bytes({1, 2}, {0xf1, 0x27}), Code::kE2M1, {torch::full({1, 1}, 2.0f), 1, 4}, torch::kFloat32);
  EXPECT_TRUE(got.equal(want)) << got;
}

// Tensors of a file. Floats of 8 bits are made of bytes.
struct Stored {
  ElementType type;
  torch::Tensor tensor;
};
using Tensors = std::map<std::string, Stored>;

class Published : public ::testing::Test {
 protected:
  void write(const Tensors& tensors, const std::string& file = "model.safetensors") const {
    std::vector<TensorView> views;
    std::vector<torch::Tensor> kept;
    for (const auto& [name, stored] : tensors) {
      kept.push_back(stored.tensor.contiguous());
      views.push_back({name, stored.type, kept.back().sizes().vec(), kept.back().const_data_ptr()});
    }
    std::filesystem::remove(folder_.path() + "/" + file);
    write_safetensors(folder_.path() + "/" + file, views);
  }
  torch::Tensor read(const Tensors& tensors, const ParameterSpec& spec) {
    write(tensors);
    record_.emplace();
    return CheckpointSource(folder_.path(), &*record_).read(spec);
  }
  static torch::Tensor bf16(const std::vector<float>& values, const std::vector<std::int64_t>& shape) {
    return torch::tensor(values).to(torch::kBFloat16).view(shape);
  }

  TemporaryFolder folder_;
  std::optional<TensorRecord> record_;  // of the last read()
};

// Two rows, of 1 and 2 in E4M3.
Stored fp8() { return {ElementType::kF8E4M3, bytes({2, 2}, {0x38, 0x38, 0x40, 0x40})}; }
Stored fp32(const std::vector<float>& values, const std::vector<std::int64_t>& shape) {
  return {ElementType::kF32, torch::tensor(values).view(shape)};
}
const ParameterSpec kMatrix{"a.weight", {2, 2}};

TEST_F(Published, Fp8WithAScalePerTensorRowOrBlock) {
  for (const char* name : {"a.weight_scale_inv", "a.weight_scale", "a.scale", "a.qscale_weight"}) {
    for (const std::vector<std::int64_t>& shape : {std::vector<std::int64_t>{}, {1}, {1, 1}}) {
      const torch::Tensor got = read({{"a.weight", fp8()}, {name, fp32({3}, shape)}}, kMatrix);
      EXPECT_TRUE(got.equal(bf16({3, 3, 6, 6}, {2, 2}))) << name << got;
    }
  }
  EXPECT_TRUE(read({{"a.weight", fp8()}, {"a.weight_scale", fp32({3, 5}, {2, 1})}}, kMatrix)
                  .equal(bf16({3, 3, 10, 10}, {2, 2})));
}

TEST_F(Published, ScalesInOtherTypes) {
  const auto expect = [&](const Stored& scale, const torch::Tensor& want) {
    write({{"a.weight", fp8()}, {"a.weight_scale_inv", scale}});
    const torch::Tensor got = CheckpointSource(folder_.path()).read(kMatrix);
    EXPECT_TRUE(got.scalar_type() == want.scalar_type() && got.equal(want)) << got;
  };
  expect({ElementType::kBF16, torch::full({1}, 3, torch::kBFloat16)}, bf16({3, 3, 6, 6}, {2, 2}));
  expect({ElementType::kF8E8M0, bytes({1, 1}, {129})}, bf16({4, 4, 8, 8}, {2, 2}));
  expect({ElementType::kU8, bytes({2, 1}, {129, 126})}, bf16({4, 4, 1, 1}, {2, 2}));
  // fp16 keeps three digits more than bf16, and the reference computes in it.
  expect({ElementType::kF16, torch::full({1}, 1.0009765625, torch::kFloat16)},
         torch::tensor({1.0009765625f, 1.0009765625f, 2.001953125f, 2.001953125f}).view({2, 2}));
}

TEST_F(Published, RowsAndColumnsThatAreNoMultipleOfABlock) {
  folder_.put("config.json", R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 3]}})");
  const torch::Tensor ones = torch::full({3, 4}, 0x38, torch::kUInt8);
  const torch::Tensor got =
      read({{"a.weight", {ElementType::kF8E4M3, ones}}, {"a.weight_scale_inv", fp32({1, 2, 3, 4}, {2, 2})}},
           {"a.weight", {3, 4}});
  EXPECT_TRUE(got.equal(bf16({1, 1, 1, 2, 1, 1, 1, 2, 3, 3, 3, 4}, {3, 4}))) << got;
}

TEST_F(Published, AScaleInAnotherFile) {
  write({{"a.weight", fp8()}}, "one.safetensors");
  write({{"a.weight_scale_inv", fp32({3}, {1})}}, "two.safetensors");
  write_checkpoint_index(folder_.path(), {{"a.weight", "one.safetensors"}, {"a.weight_scale_inv", "two.safetensors"}},
                         8);
  EXPECT_TRUE(CheckpointSource(folder_.path()).read(kMatrix).equal(bf16({3, 3, 6, 6}, {2, 2})));
}

// gpt-oss: the model's matrix of an expert is [in, out] in its parameter, and [out, in] in the blocks.
TEST_F(Published, MxFp4OfOneExpert) {
  torch::Tensor blocks = torch::zeros({2, 3, 1, 16}, torch::kUInt8);
  blocks[1][2][0][0] = 0x42;  // 1 and 2
  torch::Tensor scales = torch::full({2, 3, 1}, 127, torch::kUInt8);
  scales[1][2][0] = 125;
  ParameterSpec spec{"experts.1.gate_up_proj.weight", {3, 32}, true, StackPlace{"experts.gate_up_proj", 1, 2}};
  const torch::Tensor got = read({{"experts.gate_up_proj_blocks", {ElementType::kU8, blocks}},
                                  {"experts.gate_up_proj_scales", {ElementType::kU8, scales}}},
                                 spec);
  torch::Tensor want = torch::zeros({3, 32}, torch::kBFloat16);
  want[2][0] = 0.25;
  want[2][1] = 0.5;
  EXPECT_TRUE(got.equal(want)) << got;
  EXPECT_TRUE(record_->contains("experts.gate_up_proj_blocks[1]") && record_->contains("experts.gate_up_proj_scales[1]"));
}

TEST_F(Published, Fp4OfDeepSeekAndModelOpt) {
  torch::Tensor codes = torch::zeros({1, 16}, torch::kUInt8);
  codes[0][0] = 0x73;  // 1.5 and 6
  codes[0][8] = 0x0a;  // -1: of the second group of 16
  const ParameterSpec spec{"a.weight", {1, 32}};
  torch::Tensor want = torch::zeros({1, 32}, torch::kBFloat16);
  want[0][0] = 3;
  want[0][1] = 12;
  want[0][16] = -2;
  const Tensors v4 = {{"a.weight", {ElementType::kI8, codes}},
                      {"a.scale", {ElementType::kF8E8M0, bytes({1, 1}, {128})}}};
  EXPECT_TRUE(read(v4, spec).equal(want));
  want[0][16] = -0.25;  // scales of 4 and 0.5, times 0.5
  const Tensors nvfp4 = {{"a.weight", {ElementType::kU8, codes}},
                         {"a.weight_scale", {ElementType::kF8E4M3, bytes({1, 2}, {0x48, 0x30})}},
                         {"a.weight_scale_2", fp32({0.5}, {})}};
  write(nvfp4);
  EXPECT_TRUE(CheckpointSource(folder_.path()).read(spec).equal(want));
}

TEST_F(Published, PackedIntegers) {
  // Eight columns of 4 bits in a word: 0 .. 7, so -8 .. -1, and one more word of 8s, so 0.
  const torch::Tensor words = torch::tensor({0x76543210, static_cast<int>(0x88888888u)}, torch::kInt32).view({1, 2});
  const Tensors tensors = {
      {"a.weight_packed", {ElementType::kI32, words}},
      {"a.weight_scale", {ElementType::kBF16, torch::tensor({0.5f, 1.0f}).to(torch::kBFloat16).view({1, 2})}},
      {"a.weight_shape", {ElementType::kI64, torch::tensor({1, 16}, torch::kInt64)}}};
  const torch::Tensor got = read(tensors, {"a.weight", {1, 16}});
  EXPECT_TRUE(got.equal(bf16({-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0, 0, 0, 0, 0, 0, 0, 0}, {1, 16}))) << got;
}

TEST_F(Published, ExpertsInTheOtherForm) {
  const auto row = [](float value) { return torch::full({1, 2}, value, torch::kBFloat16); };
  // Wanted fused, stored one by one; the gate is quantized.
  const Tensors singles = {{"experts.0.gate_proj.weight", {ElementType::kF8E4M3, bytes({1, 2}, {0x38, 0x40})}},
                           {"experts.0.gate_proj.weight_scale", fp32({4}, {1})},
                           {"experts.0.up_proj.weight", {ElementType::kBF16, row(7)}},
                           {"experts.0.down_proj.weight", {ElementType::kBF16, row(9)}}};
  for (const bool transposed : {false, true}) {  // of the model's parameter: those of single experts never are
    const ParameterSpec gate_up{"e.0.gate_up", {2, 2}, transposed, StackPlace{"experts.gate_up_proj", 0, 1}};
    EXPECT_TRUE(read(singles, gate_up).equal(bf16({4, 8, 7, 7}, {2, 2})));
  }
  EXPECT_TRUE(read(singles, {"e.0.down", {1, 2}, false, StackPlace{"experts.down_proj", 0, 1}}).equal(row(9)));
  std::vector<std::string> used;
  for (const StoredTensor& tensor :
       CheckpointSource(folder_.path())
           .stored_tensors({"e.0.gate_up", {2, 2}, false, StackPlace{"experts.gate_up_proj", 0, 1}})) {
    used.push_back(tensor.name);
  }
  EXPECT_THAT(
      used, ElementsAre("experts.0.gate_proj.weight", "experts.0.gate_proj.weight_scale", "experts.0.up_proj.weight"));
  // Wanted one by one, stored fused.
  const Tensors fused = {
      {"experts.gate_up_proj", {ElementType::kBF16, torch::arange(12, torch::kBFloat16).view({2, 2, 3})}}};
  EXPECT_TRUE(read(fused, {"experts.1.gate_proj.weight", {1, 3}}).equal(bf16({6, 7, 8}, {1, 3})));
  EXPECT_TRUE(read(fused, {"experts.1.up_proj.weight", {1, 3}}).equal(bf16({9, 10, 11}, {1, 3})));
}

struct Bad {
  const char* what;
  std::function<void(Tensors&)> change;
  ExitCode code;
  std::vector<std::string> parts;  // of the message
};

TEST_F(Published, WhatIsRefused) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<Bad> table = {
      {"no scale",
       [](Tensors& t) { t.erase("a.weight_scale_inv"); },
       ExitCode::kBadInput,
       {"model.safetensors: tensor 'a.weight'",
        "or have a scale, and 'a.weight_scale_inv' is missing; fetch the rest"}},
      {"another shape",
       [](Tensors& t) {
         t["a.weight_scale_inv"] = fp32({1, 2, 3}, {3, 1});
       },
       ExitCode::kBadInput,
       {"tensor 'a.weight_scale_inv'", "[3, 1]", "does not fit a weight of [2, 2] in blocks of [128, 128]"}},
      {"no scales",
       [](Tensors& t) {
         t["a.weight_scale_inv"] = {ElementType::kF32, torch::zeros({0})};
       },
       ExitCode::kBadInput,
       {"tensor 'a.weight_scale_inv'", "[0]"}},
      {"another type",
       [](Tensors& t) {
         t["a.weight_scale_inv"] = {ElementType::kI32, torch::ones({1}, torch::kInt32)};
       },
       ExitCode::kBadInput,
       {"tensor 'a.weight_scale_inv'", "is of type I32, and it must be F32 or BF16"}},
      {"NaN",
       [=](Tensors& t) { t["a.weight_scale_inv"] = fp32({nan}, {1}); },
       ExitCode::kNumeric,
       {"tensor 'a.weight_scale_inv'", "not finite"}},
      {"NaN in E8M0",
       [](Tensors& t) {
         t["a.weight_scale_inv"] = {ElementType::kF8E8M0, bytes({1}, {255})};
       },
       ExitCode::kNumeric,
       {"tensor 'a.weight_scale_inv'", "not finite"}},
      {"NaN in U8",
       [](Tensors& t) {
         t["a.weight_scale_inv"] = {ElementType::kU8, bytes({1}, {255})};
       },
       ExitCode::kNumeric,
       {"tensor 'a.weight_scale_inv'", "not finite"}},
      {"NaN in a weight",
       [](Tensors& t) { t["a.weight"].tensor[1][1] = 0xff; },
       ExitCode::kNumeric,
       {"tensor 'a.weight'", "not finite"}},
      {"a product that is too large",
       [](Tensors& t) { t["a.weight_scale_inv"] = fp32({3e38f}, {1}); },
       ExitCode::kNumeric,
       {"tensor 'a.weight'", "not finite"}},
      {"another shape of the weight",
       [](Tensors& t) {
         t["a.weight"].tensor = bytes({2, 3}, {1, 2, 3, 4, 5, 6});
       },
       ExitCode::kBadInput,
       {"tensor 'a.weight'", "has shape [2, 3] and config.json calls for [2, 2]"}},
      {"no weight", [](Tensors& t) { t.erase("a.weight"); }, ExitCode::kBadInput, {"tensor 'a.weight'", "is missing"}},
      {"a type that nobody quantizes to",
       [](Tensors& t) {
         t["a.weight"] = {ElementType::kI64, torch::ones({2, 2}, torch::kInt64)};
       },
       ExitCode::kBadInput,
       {"tensor 'a.weight'", "is of type I64; weights are"}},
  };
  for (const Bad& bad : table) {
    SCOPED_TRACE(bad.what);
    Tensors tensors = {{"a.weight", fp8()}, {"a.weight_scale_inv", fp32({3}, {1})}};
    bad.change(tensors);
    write(tensors);
    const auto read = [&] { CheckpointSource(folder_.path()).read(kMatrix); };
    for (const std::string& part : bad.parts) EXPECT_ERROR(read(), bad.code, HasSubstr(part));
  }
}

TEST_F(Published, MethodsThatAreRead) {
  const auto name = [&](const std::string& config) {
    folder_.put("config.json", config);
    const auto method = published_method(folder_.path());
    return method ? method->name : "none";
  };
  EXPECT_EQ(name(R"({"quantization_config": {"quant_method": "fp8"}})"), "fp8");
  EXPECT_EQ(name(R"({"text_config": {"quantization_config": {"quant_method": "mxfp4"}}})"), "mxfp4");
  EXPECT_EQ(name(R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}})"),
            "compressed-tensors");
  EXPECT_EQ(name(R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "marlin-24"}})"), "none");
  EXPECT_EQ(name(R"({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}})"), "modelopt");
  EXPECT_EQ(name(R"({"quantization_config": {"quant_method": "auto-round"}})"), "none");
  EXPECT_EQ(name(R"({"quantization_config": null})"), "none");
  folder_.put("hf_quant_config.json", R"({"quantization": {"quant_algo": "NVFP4"}})");
  EXPECT_EQ(name("{}"), "modelopt");
  EXPECT_BAD_INPUT(name(R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128]}})"),
                   HasSubstr("weight_block_size': must be two sizes"));
}

}  // namespace
}  // namespace roundtable
