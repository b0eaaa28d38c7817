// A head that config.json ties and the checkpoint has all the same.
#include "model/load/stored_head.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/io/temporary_folder.h"

namespace roundtable {
namespace {

constexpr std::int64_t kVocab = 300, kHidden = 4096;  // a table of more than one piece

struct Table {
  std::string name;
  std::vector<float> values;
};

Table table(const std::string& name) { return {name, std::vector<float>(kVocab * kHidden, 1.0f)}; }

ModelConfig describe(const std::vector<Table>& tables, bool tied = true) {
  const TemporaryFolder folder;
  folder.put("config.json", R"({"model_type": "llama", "hidden_size": 4096, "intermediate_size": 8,
    "num_hidden_layers": 1, "num_attention_heads": 32, "vocab_size": 300, "tie_word_embeddings": )" +
                                std::string(tied ? "true}" : "false}"));
  std::vector<TensorView> views;
  for (const Table& one : tables) {
    views.push_back({one.name, ElementType::kF32, {kVocab, kHidden}, one.values.data()});
  }
  if (!views.empty()) write_safetensors(folder.path() + "/model.safetensors", views);
  return load_model_description(folder.path());
}

void expect(const ModelConfig& model, bool tied, bool stored) {
  EXPECT_EQ(model.tie_word_embeddings, tied);
  EXPECT_EQ(model.stored_head, stored);
}

TEST(StoredHead, CountsIfItDiffersFromTheEmbedding) {
  const Table embedding = table("model.embed_tokens.weight");
  Table head = table("lm_head.weight");
  expect(describe({}), true, false);  // config.json alone
  expect(describe({embedding}), true, false);
  expect(describe({embedding, head}), true, false);
  expect(describe({embedding, head}, /*tied=*/false), false, false);
  for (const std::size_t place : {std::size_t{0}, head.values.size() - 1}) {
    head.values[place] = 2;
    expect(describe({embedding, head}), false, true);
    head.values[place] = 1;
  }
}

}  // namespace
}  // namespace roundtable
