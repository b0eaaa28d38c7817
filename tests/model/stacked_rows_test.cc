// Matrices below each other in memory.
#include "model/load/stacked_rows.h"

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

namespace roundtable {
namespace {

using torch::Tensor;

std::vector<Tensor> some_matrices() {
  torch::manual_seed(3);
  return {torch::randn({2, 8}),  torch::randn({3, 8}), torch::randn({5, 4}),
          torch::randn({1, 4}).to(torch::kBFloat16), torch::randn({2, 4}).to(torch::kBFloat16), torch::randn({4})};
}

std::vector<Tensor> copies_of(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> copies;
  for (const Tensor& tensor : tensors) copies.push_back(tensor.clone());
  return copies;
}

bool share_memory(const Tensor& a, const Tensor& b) { return a.storage().is_alias_of(b.storage()); }

TEST(StackedRows, NeighboursOfOneWidthAndDtypeShareMemory) {
  std::vector<Tensor> matrices = some_matrices();
  const std::vector<Tensor> before = copies_of(matrices);
  StackBuilder stack;
  const std::vector<std::int64_t> rows{5, 3, 8, 3, 2};  // the shapes alone were known
  for (std::size_t i = 0; i < rows.size(); ++i) matrices[i] = stack.add(matrices[i], rows[i]);
  for (std::size_t i = 0; i < matrices.size(); ++i) EXPECT_TRUE(torch::equal(matrices[i], before[i])) << i;
  EXPECT_TRUE(share_memory(matrices[0], matrices[1]));
  EXPECT_FALSE(share_memory(matrices[1], matrices[2]));  // another width
  EXPECT_FALSE(share_memory(matrices[2], matrices[3]));  // another dtype
  EXPECT_TRUE(share_memory(matrices[3], matrices[4]));
  EXPECT_FALSE(share_memory(matrices[4], matrices[5]));  // no matrix
}

TEST(StackedRows, CopiesDoSoInTheirOwnDtypesAndLeaveGaps) {
  std::vector<Tensor> matrices = some_matrices();
  matrices.resize(5);
  matrices.insert(matrices.begin() + 1, Tensor());
  const auto dtype = torch::kBFloat16;
  const std::vector<Tensor> copies = stacked_copies(matrices, torch::kCPU, {dtype, dtype, dtype, dtype, dtype, dtype});
  EXPECT_FALSE(copies[1].defined());
  EXPECT_FALSE(share_memory(copies[0], copies[2]));  // what is between them is elsewhere
  EXPECT_TRUE(share_memory(copies[4], copies[5]));
  for (const std::size_t i : {0, 2, 3, 4, 5}) EXPECT_TRUE(torch::equal(copies[i], matrices[i].to(dtype))) << i;
  const std::vector<Tensor> three(3, torch::ones({2, 2}));
  const std::vector<Tensor> mixed = stacked_copies(three, torch::kCPU, {dtype, torch::kFloat32, dtype});
  EXPECT_EQ(mixed[1].scalar_type(), torch::kFloat32);
  EXPECT_EQ(mixed[2].scalar_type(), dtype);
}

TEST(StackedRows, AreOneMatrixWithoutACopy) {
  std::vector<Tensor> matrices = some_matrices();
  matrices.resize(2);
  const Tensor expected = torch::cat(matrices);
  const Tensor copied = stacked(matrices);
  EXPECT_TRUE(torch::equal(copied, expected));
  EXPECT_FALSE(share_memory(copied, matrices[0]));
  matrices = stacked_copies(matrices, torch::kCPU, {torch::kFloat32, torch::kFloat32});
  const Tensor whole = stacked(matrices);
  EXPECT_TRUE(torch::equal(whole, expected));
  EXPECT_TRUE(share_memory(whole, matrices[0]));
  EXPECT_EQ(whole.data_ptr(), matrices[0].data_ptr());
  // In another order, or with a gap, they are not one below the other.
  EXPECT_TRUE(torch::equal(stacked({matrices[1], matrices[0]}), torch::cat({matrices[1], matrices[0]})));
  const std::vector<Tensor> gap{matrices[0].narrow(0, 0, 1), matrices[1]};
  EXPECT_TRUE(torch::equal(stacked(gap), torch::cat(gap)));
  EXPECT_TRUE(share_memory(stacked({matrices[1]}), whole));
}

TEST(StackedRows, StayWhereTheyAreOnTheHost) {
  const std::vector<Tensor> matrices = some_matrices();
  const std::vector<Tensor> same = on_device(matrices, torch::kCPU);
  for (std::size_t i = 0; i < matrices.size(); ++i) EXPECT_TRUE(same[i].is_same(matrices[i])) << i;
}

}  // namespace
}  // namespace roundtable
