// A head that config.json ties and the checkpoint has all the same.
#include "graph/stored_head.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/graph/tiny_models.h"
#include "tests/io/temporary_folder.h"

namespace roundtable {
namespace {

constexpr std::int64_t kVocab = 300, kHidden = 4096;  // a table of more than one piece

struct Table {
  std::string name;
  std::vector<float> values;
};

Table table(const std::string& name) { return {name, std::vector<float>(kVocab * kHidden, 1.0f)}; }

Model model(bool tied) {
  const testing::TinyLlama llama{
      .hidden = kHidden, .intermediate = 8, .heads = 1, .kv_heads = 1, .head_dim = 2, .vocab = kVocab, .tied = tied};
  return testing::tiny_llama_model(llama, 1);
}

void expect(const std::vector<Table>& tables, bool tied, bool stored) {
  static const Model tied_model = model(true), own_head = model(false);
  const TemporaryFolder folder;
  std::vector<TensorView> views;
  for (const Table& one : tables) {
    views.push_back({one.name, ElementType::kF32, {kVocab, kHidden}, one.values.data()});
  }
  if (!views.empty()) write_safetensors(folder.path() + "/model.safetensors", views);
  const Model found = with_head_of(tied ? tied_model : own_head, folder.path());
  EXPECT_EQ(found.stored_head(), stored);
  EXPECT_EQ(found.head().has_value(), stored || !tied);
  EXPECT_EQ(found.head_layer(), "lm_head");
}

TEST(StoredHead, CountsIfItDiffersFromTheEmbedding) {
  const Table embedding = table("model.embed_tokens.weight");
  Table head = table("lm_head.weight");
  expect({}, /*tied=*/true, false);  // config.json alone
  expect({embedding}, true, false);
  expect({embedding, head}, true, false);
  expect({embedding, head}, /*tied=*/false, false);
  for (const std::size_t place : {std::size_t{0}, head.values.size() - 1}) {
    head.values[place] = 2;
    expect({embedding, head}, true, true);
    head.values[place] = 1;
  }
}

}  // namespace
}  // namespace roundtable
