// Every format against itself: what it packs it reads back, and what it writes of schemes it reads again. Against its
// readers it is held in tests/peer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <set>
#include <string_view>

#include "base/error.h"
#include "config/config.h"
#include "export/registry.h"
#include "tests/graph/tiny_models.h"
#include "tests/io/temporary_folder.h"

namespace roundtable {
namespace {

using ::testing::HasSubstr;

const Model& model() {
  static const Model two_blocks = testing::tiny_llama_model({.blocks = 2});
  return two_blocks;
}

// Random integers, scales of either sign and zero points on a scheme's grid.
QuantizedWeight random_weight(const LinearSpec& linear, const QuantScheme& scheme, int least_zero) {
  const std::int64_t groups = scheme.groups(linear.in);
  if (scheme.type != WeightType::kInt) {
    const torch::Tensor bits = torch::randint(0, 15, {linear.out, linear.in}, torch::kUInt8);
    const torch::Tensor scale =
        torch::ldexp(torch::ones({linear.out, groups}), torch::randint(-9, 4, {linear.out, groups}));
    return {scheme, bits.add(bits.eq(8)), scale, torch::zeros({linear.out, groups}, torch::kUInt8)};  // no -0
  }
  const int levels = 1 << scheme.bits;
  const torch::Tensor zeros = scheme.symmetric
                                  ? torch::full({linear.out, groups}, levels / 2, torch::kUInt8)
                                  : torch::randint(least_zero, levels, {linear.out, groups}, torch::kUInt8);
  const torch::Tensor scale = torch::randn({linear.out, groups}).to(torch::kFloat16).to(torch::kFloat32);
  return {scheme, torch::randint(0, levels, {linear.out, linear.in}, torch::kUInt8), scale, zeros};
}

CheckpointScheme mixture(const std::vector<QuantScheme>& schemes) {
  CheckpointScheme checkpoint{schemes.front(), 7, {}};
  for (std::int64_t block = 0; block < 2; ++block) {
    std::size_t next = 0;
    for (const LinearSpec& linear : model().linears(block)) {
      checkpoint.layers.push_back({linear.below(model().block_prefix(block)), schemes[next++ % schemes.size()]});
    }
  }
  return checkpoint;
}

std::vector<QuantScheme> schemes() {
  std::vector<QuantScheme> all;
  for (const int bits : {2, 3, 4, 8}) {
    for (const std::int64_t group_size : {32, 64, -1}) {
      for (const bool symmetric : {true, false}) {
        all.push_back({.bits = bits, .group_size = group_size, .symmetric = symmetric});
      }
    }
  }
  all.push_back({.bits = 4, .group_size = 32, .type = WeightType::kMxFp4});
  all.push_back({.bits = 4, .group_size = 16, .type = WeightType::kNvFp4, .global_scale = 32});
  return all;
}

TEST(Formats, AreFoundByNameAndAnotherNameIsRefused) {
  std::set<std::string> names;
  for (const CheckpointFormat* format : checkpoint_formats()) {
    EXPECT_EQ(&format_named(format->name(), "here"), format);
    EXPECT_TRUE(names.emplace(format->name()).second) << format->name();
  }
  for (const std::string& name : Config().output.formats) EXPECT_TRUE(names.contains(name)) << name;
  const auto line = [](const std::string& name) -> std::string {
    try {
      format_named(name, "output.formats");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadInput);
      return error.what();
    }
    return "";
  };
  const std::string all = "formats: " + names_of(checkpoint_formats());
  EXPECT_EQ(line("ggml"), "output.formats: 'ggml' is not a format; did you mean gguf? " + all);
  EXPECT_EQ(line("safetensors\n"), "output.formats: 'safetensors\\x0a' is not a format; " + all);
}

TEST(Formats, EveryTypeOfWeightsHasOneHome) {
  for (const WeightType type : {WeightType::kInt, WeightType::kMxFp4, WeightType::kNvFp4}) {
    std::vector<const PackedFormat*> homes;
    for (const PackedFormat* format : packed_formats()) {
      if (format->is_home_of(type)) homes.push_back(format);
    }
    EXPECT_EQ(homes, std::vector{&home_of(type)}) << word_of(type);
    EXPECT_TRUE(home_of(type).has_place_for(type)) << word_of(type);
  }
}

TEST(Formats, WhatIsPackedHasTheLayoutAndIsReadBack) {
  torch::manual_seed(5);
  const TemporaryFolder folder;
  int held = 0;
  for (const CheckpointFormat* any : checkpoint_formats()) {
    const SafetensorsFormat* format = as_safetensors(*any);
    if (!format) continue;
    for (const LinearSpec& linear : {LinearSpec{"a.b", 96, 64}, LinearSpec{"a.b", 32, 192}}) {
      for (const QuantScheme& scheme : schemes()) {
        if (!format->has_place_for(scheme.type) || format->scheme_obstacle(scheme) ||
            format->layer_obstacle(linear, scheme))
          continue;
        ++held;
        QuantizedWeight weight = random_weight(linear, scheme, format->min_zero_point());
        const auto specs = format->layout(linear, scheme, torch::kBFloat16);
        const auto tensors = format->pack(linear, weight, torch::kBFloat16);
        ASSERT_EQ(specs.size(), tensors.size());
        std::vector<TensorView> views;
        for (std::size_t i = 0; i < specs.size(); ++i) {
          EXPECT_EQ(tensors[i].name, specs[i].name);
          EXPECT_EQ(tensors[i].tensor.scalar_type(), specs[i].type) << specs[i].name;
          EXPECT_EQ(tensors[i].tensor.sizes(), specs[i].shape) << specs[i].name;
          EXPECT_TRUE(tensors[i].tensor.is_contiguous());
          EXPECT_EQ(tensors[i].tensor.nbytes(), specs[i].bytes());
          views.push_back(tensors[i].view());
        }
        const std::string path = folder.path() + "/x.safetensors";
        write_safetensors(path, views);
        const SafetensorsFile file(path);
        const TensorReader reader = reader_of(file);
        EXPECT_TRUE(format->holds(reader, linear, weight, torch::kBFloat16)) << format->name() << " " << scheme.bits;
        weight.q[3][17] = weight.q[3][17].item<int>() == 0 ? 1 : 0;  // one integer is another
        EXPECT_FALSE(format->holds(reader, linear, weight, torch::kBFloat16)) << format->name() << " " << scheme.bits;
      }
    }
  }
  EXPECT_GT(held, 200);
}

TEST(Formats, SchemesAreReadAsTheyWereWritten) {
  const QuantScheme w4{.bits = 4, .group_size = 32}, w8{.bits = 8, .group_size = -1},
      w3{.bits = 3, .group_size = 64, .symmetric = false}, mx{.bits = 4, .group_size = 32, .type = WeightType::kMxFp4},
      nv{.bits = 4, .group_size = 16, .type = WeightType::kNvFp4};
  std::set<std::string_view> held;
  for (const PackedFormat* format : packed_formats()) {
    for (const auto& mixed : {std::vector{w4}, {w4, w8, w3}, {mx}, {nv}}) {
      CheckpointScheme checkpoint = mixture(mixed);
      if (obstacle(*format, model(), checkpoint)) continue;
      held.insert(format->name());
      checkpoint.layers[5].scheme.reset();
      const nlohmann::json config = format->quantization_config(checkpoint, model());
      EXPECT_TRUE(format->owns(config));
      for (const PackedFormat* other : packed_formats()) EXPECT_EQ(other->owns(config), other == format);
      const SchemeOf scheme_of = format->read_schemes(config, "config.json");
      for (const LayerScheme& layer : checkpoint.layers) {
        if (!layer.scheme) continue;
        const QuantScheme read = scheme_of(layer.linear.name);
        EXPECT_EQ(read.bits, layer.scheme->bits) << format->name() << " " << layer.linear.name;
        EXPECT_EQ(read.group_size, layer.scheme->group_size) << format->name() << " " << layer.linear.name;
        EXPECT_EQ(read.symmetric, layer.scheme->symmetric) << format->name() << " " << layer.linear.name;
        EXPECT_EQ(read.type, layer.scheme->type) << format->name() << " " << layer.linear.name;
      }
    }
  }
  EXPECT_EQ(held.size(), packed_formats().size());
}

TEST(Formats, AnExpressionThatIsTooLargeIsRefused) {
  nlohmann::json config = {{"bits", 4}, {"group_size", 32}, {"sym", true}};
  config["extra_config"]["(a?){9999}"] = {{"bits", 8}};
  try {
    as_packed(format_named("auto_round:auto_gptq", ""))->read_schemes(config, "config.json");
    FAIL() << "it was taken";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("config.json: quantization_config: extra_config: '(a?){9999}': is too "
                                        "large a regular expression"));
  }
}

TEST(Formats, AnObstacleNamesWhoHasNone) {
  const auto line = [](const char* format, const CheckpointScheme& checkpoint) -> std::string {
    try {
      refuse_obstacle("here", format_named(format, ""), model(), checkpoint);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadInput);
      return error.what();
    }
    return "";
  };
  const CheckpointScheme w3 = mixture({{.bits = 3, .group_size = 32}});
  EXPECT_THAT(line("auto_awq", w3),
              HasSubstr("here: auto_awq cannot hold this: model.layers.0.self_attn.q_proj: it holds "
                        "only 4 bits, not 3; formats that can: auto_round:auto_gptq, "));
  EXPECT_THAT(line("gguf", w3), HasSubstr("multiple of 256"));
  EXPECT_EQ(line("auto_gptq", w3), "");
  const CheckpointScheme mx = mixture({{.bits = 4, .group_size = 32, .type = WeightType::kMxFp4}});
  EXPECT_THAT(line("llm_compressor", mx),
              HasSubstr("no place for weights of data_type mx_fp; formats that can: mxfp4, qdq"));
  EXPECT_THAT(line("nvfp4", mx), HasSubstr("no place for weights of data_type mx_fp"));
  EXPECT_THAT(line("mxfp4", w3), HasSubstr("no place for weights of data_type int"));
  const CheckpointScheme mixed = mixture({{.bits = 4, .group_size = 32}, {.bits = 4, .group_size = 64}});
  EXPECT_THAT(line("auto_awq", mixed), HasSubstr("self_attn.k_proj has its own"));
  EXPECT_EQ(line("auto_round:auto_awq", mixture({{.bits = 4, .group_size = 32}, {.bits = 4, .group_size = -1}})), "");
}

// AutoAWQ 0.2.9, awq/modules/linear/gemm.py: for i in range(8), order_map = [0, 2, 4, 6, 1, 3, 5, 7]: column
// order_map[i] is shifted by 4 i.
TEST(Formats, AnAwqWordByHand) {
  const LinearSpec linear{"x", 8, 32};
  QuantizedWeight weight = random_weight(linear, {.bits = 4, .group_size = 32}, 0);
  for (int column = 0; column < 8; ++column) weight.q[column][0] = column + 1;
  const auto tensors = as_packed(format_named("auto_awq", ""))->pack(linear, weight, torch::kFloat16);
  std::uint32_t word = 0;
  const int order_map[] = {0, 2, 4, 6, 1, 3, 5, 7};
  for (int i = 0; i < 8; ++i) word |= static_cast<std::uint32_t>(order_map[i] + 1) << (4 * i);
  EXPECT_EQ(static_cast<std::uint32_t>(tensors[0].tensor[0][0].item<std::int32_t>()), word);
}

// An expert that no token reaches starts from a search that weighs nothing, and keeps what rounding to nearest gives. Its
// first output channel has no weights.
TEST(Formats, TheScalesOfAnUnreachedExpertAreFiniteAndNotZero) {
  const LinearSpec linear{"experts.5.w1", 32, 64};
  torch::manual_seed(8);
  torch::Tensor original = torch::randn({linear.out, linear.in}) / 8;
  original[0].zero_();
  const std::set<std::string> scales{"scales", "weight_scale", "weight_scale_2", "weight_global_scale"};
  std::set<std::string_view> looked_at;
  for (const PackedFormat* format : packed_formats()) {
    for (QuantScheme scheme : {QuantScheme{4, 32, true, true, true, 1}, QuantScheme{4, 32, false, true, true, 1},
                               QuantScheme{.bits = 4, .group_size = 32, .type = WeightType::kMxFp4},
                               QuantScheme{.bits = 4, .group_size = 16, .type = WeightType::kNvFp4}}) {
      if (!format->has_place_for(scheme.type) || format->scheme_obstacle(scheme) ||
          format->layer_obstacle(linear, scheme)) {
        continue;
      }
      for (const bool search : {false, true}) {
        scheme = with_global_scale(scheme, {original});
        RoundingParameters parameters = make_rounding_parameters(original, scheme);
        if (search) search_scales(original, parameters, scheme, torch::zeros({linear.in}));
        QuantizedWeight weight = quantize(original, parameters, scheme);
        replace_zero_scales(weight);
        for (const NamedTensor& stored : format->pack(linear, weight, torch::kBFloat16)) {
          if (!scales.contains(stored.name.substr(stored.name.rfind('.') + 1))) continue;
          looked_at.insert(format->name());
          // Exponents of two (mx_fp) are bytes, all of which but 255 are scales.
          const bool bytes = stored.tensor.scalar_type() == torch::kUInt8;
          const torch::Tensor values = stored.tensor.to(torch::kFloat32);
          EXPECT_TRUE(values.isfinite().all().item<bool>()) << format->name() << ' ' << stored.name;
          EXPECT_TRUE(bytes ? values.lt(255).all().item<bool>() : values.ne(0).all().item<bool>())
              << format->name() << ' ' << stored.name;
        }
      }
    }
  }
  EXPECT_EQ(looked_at.size(), packed_formats().size()) << "or a scale has another name";
}

}  // namespace
}  // namespace roundtable
