// What names say of layers.
#include "round/names.h"

#include <gtest/gtest.h>

namespace roundtable {
namespace {

TEST(Names, TheFirstNumberIsTheBlocks) {
  const auto place = place_of("model.layers.12.mlp.experts.3.up_proj.weight");
  ASSERT_TRUE(place.has_value());
  EXPECT_EQ(place->list, "model.layers");
  EXPECT_EQ(place->block, 12);
  EXPECT_EQ(place->below, "mlp.experts.3.up_proj.weight");
  EXPECT_EQ(place_of("h.0.attn.c_attn.weight")->list, "h");
  for (const char* name : {"lm_head.weight", "model.layers.weight", "0.weight", "model.12b.weight", "model.layers.7", ""}) {
    EXPECT_FALSE(place_of(name).has_value()) << name;
  }
}

TEST(Names, OtherPartsAreKnownByTheirWords) {
  for (const char* name : {"model.vision_tower.blocks", "visual.blocks", "model.visual.merger.mlp", "audio_tower.layers",
                           "multi_modal_projector.linear_1", "mtp.layers", "talker.model.layers", "mm_projector"}) {
    EXPECT_TRUE(is_of_other_part(name)) << name;
  }
  for (const char* name : {"model.layers", "model.language_model.layers", "transformer.h", "decoder.stages", "lm_head"}) {
    EXPECT_FALSE(is_of_other_part(name)) << name;
  }
}

TEST(Names, NormsTablesAndConvolutionsAreNoLinearLayers) {
  for (const char* name : {"self_attn.q_norm", "input_layernorm", "ln_1", "mixer.conv1d", "embed_tokens", "wpe",
                           "attn.relative_attention_bias", "rotary_emb"}) {
    EXPECT_FALSE(is_linear_layer(name)) << name;
  }
  for (const char* name : {"self_attn.q_proj", "mlp.experts.3.w1", "attn.c_attn", "mlp.dense_h_to_4h", "norm.linear"}) {
    EXPECT_TRUE(is_linear_layer(name)) << name;
  }
}

TEST(Names, RoutersAndSmallGatesAreKept) {
  const auto kept = [](const std::string& layer, bool narrow) { return kept_by(layer, [&] { return narrow; }) != nullptr; };
  for (const char* name : {"mlp.gate", "mlp.router", "block_sparse_moe.gate", "ffn.my_router", "router.layer"}) {
    EXPECT_TRUE(is_router(name)) << name;
    EXPECT_TRUE(kept(name, false)) << name;
  }
  for (const char* name : {"mlp.gate_proj", "mlp.gate_up_proj", "mlp.shared_expert_gate"}) {
    EXPECT_FALSE(is_router(name)) << name;
  }
  EXPECT_TRUE(kept("mlp.shared_expert_gate", false));
  EXPECT_TRUE(kept("self_attn.indexer.wq_b", false));
  EXPECT_TRUE(kept("self_attn.g_proj", true));
  EXPECT_FALSE(kept("self_attn.g_proj", false));
  EXPECT_FALSE(kept("mlp.gate_proj", true));
}

TEST(Names, ExpertsHeadsAndEmbeddings) {
  EXPECT_EQ(expert_in("mlp.experts.31.up_proj"), 31);
  EXPECT_EQ(expert_in("experts.2.w1"), 2);
  EXPECT_EQ(expert_in("mlp.shared_experts.2.up_proj"), -1);
  EXPECT_EQ(expert_in("mlp.experts.gate_up_proj"), -1);
  EXPECT_EQ(rank_of_head("language_model.lm_head"), 0u);
  EXPECT_LT(*rank_of_head("embed_out"), *rank_of_head("output"));
  EXPECT_FALSE(rank_of_head("model.head_norm").has_value());
  for (const char* name : {"model.embed_tokens", "transformer.wte", "word_embeddings", "tok_embeddings"}) {
    EXPECT_TRUE(is_embedding(name)) << name;
  }
  for (const char* name : {"embed_out", "transformer.wpe", "embed_positions", "position_embeddings"}) {
    EXPECT_FALSE(is_embedding(name)) << name;
  }
}

}  // namespace
}  // namespace roundtable
