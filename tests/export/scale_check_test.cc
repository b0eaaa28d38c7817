// Every scale that a format writes is finite and not zero, or the layer is refused first.
#include "export/scale_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "export/gguf/blocks.h"
#include "export/registry.h"
#include "tests/io/throws_error.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

const LinearSpec kLayer{"model.layers.3.mlp.up_proj", 32, 512};

CheckpointScheme checkpoint_of(const QuantScheme& scheme) { return {scheme, 1, {{kLayer, scheme}}}; }

// Random weights of about 1 with one of `outlier`.
torch::Tensor with_outlier(float outlier) {
  torch::Tensor weight = torch::randn({kLayer.out, kLayer.in});
  weight[5][7] = outlier;
  return weight;
}

std::vector<QuantScheme> every_scheme() {
  std::vector<QuantScheme> all;
  for (const int bits : {2, 3, 4, 8}) {
    for (const std::int64_t group_size : {32, 256, -1}) {
      for (const bool symmetric : {true, false}) {
        all.push_back({.bits = bits, .group_size = group_size, .symmetric = symmetric, .min_zero_point = 1});
        if (symmetric) all.push_back({.bits = bits, .group_size = group_size, .full_range = false});
      }
    }
  }
  all.push_back({.bits = 4, .group_size = 32, .type = WeightType::kMxFp4});
  all.push_back({.bits = 4, .group_size = 16, .type = WeightType::kNvFp4});
  return all;
}

bool passes(const QuantScheme& scheme, const CheckpointFormat& format, const torch::Tensor& weight) {
  try {
    ScaleCheck(checkpoint_of(scheme), {&format})("model.layers.3.mlp.up_proj.weight", weight);
    return true;
  } catch (const Error&) {
    return false;
  }
}

// Of GGML's blocks, the fp16 numbers, which may be zero only as a minimum.
void expect_finite_halves(const QuantizedWeight& weight) {
  const GgufType type = gguf_type(weight.scheme, kLayer.in);
  const torch::Tensor rows = gguf_blocks(weight);
  const std::int64_t small = type == GgufType::kQ8_0 ? 34 : type == GgufType::kQ4_0 ? 18 : 20;
  const std::int64_t bytes = type == GgufType::kQ4_K   ? 144
                             : type == GgufType::kQ3_K ? 110
                             : type == GgufType::kQ2_K ? 84
                                                       : small;
  const std::int64_t at = type == GgufType::kQ3_K ? 108 : type == GgufType::kQ2_K ? 80 : 0;
  const torch::Tensor blocks = rows.view({-1, bytes});
  const torch::Tensor d = blocks.narrow(1, at, 2).contiguous().view(torch::kFloat16);
  EXPECT_TRUE(d.isfinite().all().item<bool>() && d.ne(0).all().item<bool>());
  if (type == GgufType::kQ4_1) {
    EXPECT_TRUE(blocks.narrow(1, 2, 2).contiguous().view(torch::kFloat16).isfinite().all().item<bool>());
  }
}

// Tensors of scales are those of floats, and E8M0's bytes.
void expect_good_scales(const SafetensorsFormat& format, const QuantizedWeight& weight) {
  for (const NamedTensor& named : format.pack(kLayer, weight, torch::kFloat32)) {
    if (named.name.ends_with("weight_scale") && named.tensor.scalar_type() == torch::kUInt8) {
      EXPECT_TRUE(named.tensor.ne(255).all().item<bool>()) << format.name();
    } else if (named.tensor.is_floating_point()) {
      const torch::Tensor values = named.tensor.to(torch::kFloat32);
      EXPECT_TRUE(values.isfinite().all().item<bool>()) << format.name() << " " << named.name;
      EXPECT_TRUE(named.name.ends_with(".weight") || values.ne(0).all().item<bool>()) << format.name() << named.name;
    }
  }
}

TEST(ScaleCheck, WhatPassesHasGoodScalesInEveryFormat) {
  torch::manual_seed(3);
  int passed = 0, refused = 0;
  for (const CheckpointFormat* format : checkpoint_formats()) {
    for (const QuantScheme& wanted : every_scheme()) {
      if (!format->has_place_for(wanted.type) || format->scheme_obstacle(wanted) ||
          format->layer_obstacle(kLayer, wanted))
        continue;
      const bool integers = wanted.type == WeightType::kInt;
      for (const float outlier : {0.0f, 1e-30f, 6e4f, -6e4f, -9e4f, 1.3e5f, -3e5f, 1e6f, -1e7f, 1e30f, -3e38f}) {
        const torch::Tensor weight =
            outlier == 1e-30f ? torch::full({kLayer.out, kLayer.in}, outlier) : with_outlier(outlier);
        const QuantScheme scheme = with_global_scale(wanted, {weight});
        const bool fits = passes(scheme, *format, weight);
        (fits ? passed : refused) += 1;
        if (std::fabs(outlier) <= 6e4f || !integers) EXPECT_TRUE(fits) << format->name() << " " << outlier;
        if (std::fabs(outlier) >= 1e30f && integers) EXPECT_FALSE(fits) << format->name() << " " << outlier;
        if (!fits) continue;
        // Tuned scales are smaller.
        RoundingParameters parameters = make_rounding_parameters(weight, scheme);
        parameters.min_scale.uniform_(0, 1), parameters.max_scale.uniform_(0, 1);
        QuantizedWeight tuned = quantize(weight, parameters, scheme);
        replace_zero_scales(tuned);
        for (const QuantizedWeight& one : {round_to_nearest(weight, scheme), tuned}) {
          if (const SafetensorsFormat* safetensors = as_safetensors(*format)) {
            expect_good_scales(*safetensors, one);
          } else {
            expect_finite_halves(one);
          }
        }
      }
    }
  }
  EXPECT_GT(passed, 500);
  EXPECT_GT(refused, 200);
}

TEST(ScaleCheck, NamesTheLayerAndItsLargestWeight) {
  const QuantScheme scheme{.bits = 4, .group_size = 32};
  const ScaleCheck check(checkpoint_of(scheme), {&format_named("qdq", ""), &format_named("auto_round", "")});
  EXPECT_ERROR(check("model.layers.3.mlp.up_proj.weight", with_outlier(-1e7f)), ExitCode::kNumeric,
               AllOf(StartsWith("layer 'model.layers.3.mlp.up_proj': its largest weight is 1e+07: a scale of 1.25e+06 "
                                "would be needed, and fp16 ends at 65504"),
                     EndsWith("; check the model, or keep the layer in 16 bits (quantization.ignore_layers)")));
  EXPECT_NO_THROW(check("model.layers.3.mlp.down_proj.weight", with_outlier(1e7f)));  // not a quantized layer
  // fp16's largest number is the limit.
  EXPECT_NO_THROW(check("model.layers.3.mlp.up_proj.weight", with_outlier(8 * 65504.0f)));
  EXPECT_ERROR(check("model.layers.3.mlp.up_proj.weight", with_outlier(8 * 65520.0f)), ExitCode::kNumeric,
               HasSubstr("a scale of 65520"));
}

TEST(ScaleCheck, GgufStoresMinimaToo) {
  const QuantScheme scheme{.bits = 4, .group_size = 32, .symmetric = false};
  EXPECT_TRUE(passes(scheme, format_named("llm_compressor", ""), with_outlier(-2e5f)));
  EXPECT_ERROR(ScaleCheck(checkpoint_of(scheme), {&format_named("gguf", "")})("model.layers.3.mlp.up_proj.weight",
                                                                              with_outlier(-2e5f)),
               ExitCode::kNumeric, AllOf(HasSubstr("a minimum of "), HasSubstr("(gguf)")));
}

}  // namespace
}  // namespace roundtable
