// What plan says of the files of a model's folder: types of tensors, stale configs, indexes that do not fit the shards.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <map>

#include "base/error.h"
#include "io/checkpoint.h"
#include "plan/plan.h"
#include "tests/graph/tiny_models.h"
#include "tests/io/temporary_folder.h"
#include "tests/io/throws_error.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr const char* kIndex = "model.safetensors.index.json";

// A Llama of one block, with its tokens. All tensors are zeros.
class ModelFiles : public ::testing::Test {
 protected:
  ModelFiles() {
    config_.model.path = folder_.path();
    config_.output.path = folder_.path() + "/out";
    config_.quantization.group_size = -1;  // no warning of tensor parallelism
    config_.calibration.tokens = folder_.path() + "/tokens.safetensors";
    config_.calibration.n_samples = 2;
    config_.calibration.seqlen = 4;
    config_.tuning.batch_size = 1;
    const std::array<std::int32_t, 8> ids{};
    write_safetensors(config_.calibration.tokens, {{"input_ids", ElementType::kI32, {2, 4}, ids.data()}},
                      {{"format", "roundtable.tokens"}, {"version", "1"}});
    describe();
    const Model model = described_model();
    for (const PlacedTensor& placed : model.table(0).placed) {
      tensors_[model.block_prefix(0) + placed.spec.name] = {ElementType::kBF16, placed.spec.stored_shape()};
    }
    for (const ParameterSpec& spec : model.outside()) {
      tensors_[spec.name] = {ElementType::kBF16, spec.stored_shape()};
    }
  }

  // Writes config.json, with more keys.
  void describe(const nlohmann::json& more = nlohmann::json::object()) {
    nlohmann::json config = testing::llama_config(llama_);
    config.update(more);
    llama_.tied = config["tie_word_embeddings"];
    folder_.put("config.json", config.dump());
  }
  Model described_model() const {
    testing::GraphFiles files = testing::llama_model(llama_, 4, torch::kFloat32);
    files.model["ignored"] = ignored_;
    return testing::model_from(files, testing::llama_config(llama_));
  }
  Plan made_plan() const {
    const Model model = described_model();
    return make_plan(config_, {model, model}, {1, 1});
  }

  struct Tensor {
    ElementType type;
    std::vector<std::int64_t> shape;
  };
  using Tensors = std::map<std::string, Tensor>;

  void write(const std::string& file, const Tensors& tensors) const {
    static const std::vector<char> zeros(1 << 16);
    std::vector<TensorView> views;
    for (const auto& [name, tensor] : tensors) views.push_back({name, tensor.type, tensor.shape, zeros.data()});
    std::filesystem::remove(folder_.path() + "/" + file);
    write_safetensors(folder_.path() + "/" + file, views, {{"format", "pt"}});
  }

  // The model with a change to its tensors, in one file.
  Plan plan(const std::function<void(Tensors&)>& change = [](Tensors&) {}) const {
    Tensors changed = tensors_;
    change(changed);
    write("model.safetensors", changed);
    return made_plan();
  }

  std::vector<std::string> ignored_;  // names that the graph calls parts of another model
  testing::TinyLlama llama_{.hidden = 32, .intermediate = 32, .heads = 2, .max_positions = 128};
  TemporaryFolder folder_;
  Config config_;
  Tensors tensors_;
};

TEST_F(ModelFiles, AGoodModelPassesWithoutAWarning) { EXPECT_THAT(plan().warnings, IsEmpty()); }

TEST_F(ModelFiles, EveryTensorThatIsUsedHasATypeThatIsHandled) {
  const std::map<ElementType, std::string> others = {{ElementType::kF64, "F64"},   {ElementType::kI64, "I64"},
                                                     {ElementType::kI32, "I32"},   {ElementType::kI16, "I16"},
                                                     {ElementType::kI8, "I8"},     {ElementType::kU8, "U8"},
                                                     {ElementType::kBool, "BOOL"}, {ElementType::kF8E4M3, "F8_E4M3"}};
  for (const auto& [name, tensor] : tensors_) {
    for (const ElementType type : {ElementType::kF32, ElementType::kF16, ElementType::kBF16}) {
      EXPECT_NO_THROW(plan([&](Tensors& t) { t[name].type = type; })) << name;
    }
    for (const auto& [type, word] : others) {
      EXPECT_BAD_INPUT(
          plan([&](Tensors& t) { t[name].type = type; }),
          StartsWith(fmt::format("{}/model.safetensors: tensor '{}': is of type {}; weights are F32, F16 or BF16",
                                 folder_.path(), name, word)));
    }
  }
}

TEST_F(ModelFiles, ATiedHeadThatTheFileHasIsCheckedToo) {
  describe({{"tie_word_embeddings", true}});
  EXPECT_NO_THROW(plan());
  EXPECT_NO_THROW(plan([](Tensors& t) { t.erase("lm_head.weight"); }));
  EXPECT_BAD_INPUT(plan([](Tensors& t) { t["lm_head.weight"].type = ElementType::kI8; }),
                   HasSubstr("tensor 'lm_head.weight': is of type I8"));
  EXPECT_BAD_INPUT(plan([](Tensors& t) {
                     t["lm_head.weight"].shape = {31, 32};
                   }),
                   HasSubstr("tensor 'lm_head.weight': has shape [31, 32] and config.json calls for [32, 32]"));
}

TEST_F(ModelFiles, WhatIsNoPartOfTheModelIsRefusedUnlessTheGraphNamesIt) {
  const auto with_vision = [](Tensors& t) { t["vision.patch.weight"] = {ElementType::kI8, {3, 5}}; };
  EXPECT_BAD_INPUT(plan(with_vision), HasSubstr("tensor 'vision.patch.weight': is not part of a 'llama' model"));
  ignored_ = {"^vision"};
  const Plan carried = plan(with_vision);
  ASSERT_EQ(carried.carried_over.size(), 1u);
  EXPECT_EQ(carried.carried_over[0].name, "vision.patch.weight");
  EXPECT_EQ(carried.outside_files.back().back().name, "vision.patch.weight");
}

TEST_F(ModelFiles, ATableThatIsNotCopiedMayHaveAnyType) {
  EXPECT_NO_THROW(plan([](Tensors& t) {
    t["model.layers.0.self_attn.rotary_emb.inv_freq"] = {ElementType::kF64, {8}};
  }));
}

TEST_F(ModelFiles, AStaleQuantizationConfigIsNamed) {
  for (const char* method : {"fp8", "bitsandbytes", "mxfp4", "gptq", "awq", "compressed-tensors", "quark"}) {
    describe({{"quantization_config", {{"quant_method", method}, {"bits", 4}}}});
    EXPECT_BAD_INPUT(plan(), AllOf(StartsWith(folder_.path() + "/config.json: key 'quantization_config': says"),
                                   HasSubstr(fmt::format("({}), and the weights are floats", method)),
                                   EndsWith("; remove the key from config.json if it is out of date")));
  }
  for (const char* value : {"{}", R"({"quant_method": 3})", R"("fp8")", "[]"}) {
    describe({{"quantization_config", nlohmann::json::parse(value)}});
    EXPECT_BAD_INPUT(plan(),
                     HasSubstr("key 'quantization_config': says that the weights are quantized (no quant_method)"));
  }
  describe({{"compression_config", {{"quantization_config", {{"quant_method", "compressed-tensors"}}}}}});
  EXPECT_BAD_INPUT(plan(), HasSubstr("key 'compression_config': says that"));
  describe({{"quantization_config", nullptr}});
  EXPECT_NO_THROW(plan());
}

TEST_F(ModelFiles, AModelThatIsQuantizedAlreadyIsNamedAsSuch) {
  describe({{"quantization_config", {{"quant_method", "gptq"}}}});
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  EXPECT_BAD_INPUT(
      plan([&](Tensors& t) { t[name].type = ElementType::kF8E4M3; }),
      AllOf(HasSubstr("config.json: key 'quantization_config': the model is quantized already"),
            HasSubstr(fmt::format("(gptq; tensor '{}' is F8_E4M3); quantize from the float model, or from one "
                                  "that is published as fp8, ",
                                  name))));
}

TEST_F(ModelFiles, AModelThatItsPublisherHasQuantizedIsASource) {
  describe({{"quantization_config", {{"quant_method", "fp8"}}}});
  const std::string layer = "model.layers.0.mlp.up_proj";
  const auto publish = [&](Tensors& t) {
    t[layer + ".weight"].type = ElementType::kF8E4M3;
    t[layer + ".weight_scale_inv"] = {ElementType::kF32, {1, 1}};
    t[layer + ".input_scale"] = {ElementType::kF32, {}};
  };
  EXPECT_NO_THROW(plan(publish));
  EXPECT_BAD_INPUT(plan([&](Tensors& t) { publish(t), t.erase(layer + ".weight_scale_inv"); }),
                   AllOf(StartsWith(folder_.path() + "/model.safetensors: tensor '" + layer + ".weight'"),
                         HasSubstr("or have a scale, and '" + layer + ".weight_scale_inv' is missing")));
  EXPECT_BAD_INPUT(plan([&](Tensors& t) {
                     publish(t), t[layer + ".weight_zero_point"] = {ElementType::kF32, {1}};
                   }),
                   HasSubstr("weight_zero_point': is not part of a 'llama' model"));
}

TEST_F(ModelFiles, QuantizationFilesNextToFloatsAreNamed) {
  for (const char* file : {"hf_quant_config.json", "quantize_config.json", "quant_config.json"}) {
    folder_.put(file, "{}");
    EXPECT_THAT(plan().warnings, Contains(AllOf(StartsWith(file), EndsWith("it is not copied"))));
  }
}

// One shard for what no block holds, another for the block.
class Shards : public ModelFiles {
 protected:
  Shards() {
    for (const auto& [name, tensor] : tensors_) {
      Tensors& shard = name.starts_with("model.layers") ? second_ : first_;
      shard.insert({name, tensor});
      index_[name] = &shard == &first_ ? "one.safetensors" : "two.safetensors";
    }
  }

  Plan sharded_plan() const {
    write("one.safetensors", first_);
    write("two.safetensors", second_);
    write_checkpoint_index(folder_.path(), index_, 0);
    return made_plan();
  }

  Tensors first_, second_;
  std::map<std::string, std::string> index_;
};

TEST_F(Shards, PassWithoutAWarning) { EXPECT_THAT(sharded_plan().warnings, IsEmpty()); }

TEST_F(Shards, NextToASingleFileAreRefused) {
  write("model.safetensors", tensors_);
  EXPECT_BAD_INPUT(sharded_plan(), AllOf(StartsWith(folder_.path() + ": holds model.safetensors and " + kIndex),
                                         EndsWith("; remove the one that is out of date")));
}

TEST_F(Shards, AnIndexEntryWithoutItsTensorIsRefused) {
  for (const char* name : {"model.norm.weight", "lm_head.weight", "model.layers.0.mlp.up_proj.weight"}) {
    const Tensors first = first_, second = second_;
    first_.erase(name), second_.erase(name);
    EXPECT_BAD_INPUT(sharded_plan(), AllOf(HasSubstr(fmt::format("tensor '{}': is missing, though {}", name, kIndex)),
                                           AnyOf(HasSubstr("one.safetensors"), HasSubstr("two.safetensors"))));
    first_ = first, second_ = second;
  }
  // A tied head is no exception.
  describe({{"tie_word_embeddings", true}});
  first_.erase("lm_head.weight");
  EXPECT_BAD_INPUT(sharded_plan(), HasSubstr("tensor 'lm_head.weight': is missing, though"));
}

TEST_F(Shards, ATensorThatTheIndexDoesNotNameIsRefused) {
  second_["model.layers.0.mlp.up_proj.bias"] = {ElementType::kBF16, {32}};
  EXPECT_BAD_INPUT(
      sharded_plan(),
      AllOf(HasSubstr("/two.safetensors: tensor 'model.layers.0.mlp.up_proj.bias': is in the file, and the "
                      "index does not name it"),
            EndsWith("; fetch the model again, or correct model.safetensors.index.json")));
  second_.erase("model.layers.0.mlp.up_proj.bias");
  second_["model.layers.0.self_attn.rotary_emb.inv_freq"] = {ElementType::kF32, {8}};
  EXPECT_NO_THROW(sharded_plan());
}

TEST_F(Shards, OnATensorInTwoShardsTheIndexDecides) {
  second_["model.norm.weight"] = {ElementType::kI8, {7}};  // not the one that counts
  EXPECT_THAT(sharded_plan().warnings,
              Contains("tensor 'model.norm.weight' is in two.safetensors too: the index decides "
                       "for the one in one.safetensors"));
}

}  // namespace
}  // namespace roundtable
