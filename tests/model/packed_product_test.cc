// Packed products against LibTorch's in fp64.
#include "model/attention/packed_product.h"

#include <gtest/gtest.h>
#include <torch/types.h>

namespace roundtable {
namespace {

const std::uint16_t* bits_of(const torch::Tensor& x) { return static_cast<const std::uint16_t*>(x.const_data_ptr()); }

class PackedProduct : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_packed_product()) GTEST_SKIP() << "no bf16 products of packed matrices on this CPU";
    torch::manual_seed(3);
  }
  static torch::Tensor random(std::initializer_list<std::int64_t> sizes) {
    return torch::randn(sizes).to(torch::kBFloat16);
  }
  static void expect_product(const torch::Tensor& got, const torch::Tensor& a, const torch::Tensor& b) {
    const torch::Tensor truth = torch::mm(a.to(torch::kFloat64), b.to(torch::kFloat64));
    EXPECT_LE((got.to(torch::kFloat64) - truth).abs().max().item<double>(), 1e-5 * truth.abs().max().item<double>());
  }
};

// Rows of a wider matrix times a part of a packed one, into a wider result whose other columns stay.
TEST_F(PackedProduct, OfPackedRows) {
  const torch::Tensor a = random({50, 40});  // of which columns 4 to 33
  const torch::Tensor b = random({2, 34, 24});
  const torch::Tensor packed = pack_rows(b);
  torch::Tensor c = torch::full({50, 20}, 7.0f);
  const PackedMatrix second{bits_of(packed) + 34 * 24, 24};
  packed_product(50, 16, 30, bits_of(a) + 4, 40, second.from(2, 8), c.data_ptr<float>(), 20);
  end_packed_products();
  expect_product(c.narrow(1, 0, 16), a.narrow(1, 4, 30), b[1].narrow(0, 2, 30).narrow(1, 8, 16));
  EXPECT_TRUE((c.narrow(1, 16, 4) == 7).all().item<bool>());
}

TEST_F(PackedProduct, OfPackedTransposedRows) {
  const torch::Tensor a = random({19, 24});
  const torch::Tensor b = random({2, 37, 24});
  const torch::Tensor packed = pack_transposed(b);
  torch::Tensor c = torch::empty({19, 30});
  const PackedMatrix second{bits_of(packed) + 37 * 24, 37};
  packed_product(19, 30, 24, bits_of(a), 24, second.from(0, 7), c.data_ptr<float>(), 30);
  end_packed_products();
  expect_product(c, a, b[1].narrow(0, 7, 30).t());
  packed_product(19, 30, 24, bits_of(a), 24, second.from(0, 7), c.data_ptr<float>(), 30, /*add=*/true);
  end_packed_products();
  expect_product(c, a * 2, b[1].narrow(0, 7, 30).t());
}

}  // namespace
}  // namespace roundtable
