// Packed matrices element by element, and their products against LibTorch's in fp64.
#include "model/attention/packed.h"

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cstdlib>

namespace roundtable {
namespace {

const std::uint16_t* bits_of(const torch::Tensor& x) { return static_cast<const std::uint16_t*>(x.const_data_ptr()); }

torch::Tensor random(std::initializer_list<std::int64_t> sizes) { return torch::randn(sizes).to(torch::kBFloat16); }

// The element (r, c) of a packed matrix, as packed.h says where it lies.
std::uint16_t element(const PackedMatrix& b, std::int64_t r, std::int64_t c) {
  return b.data[((r / 2) * b.stride + c) * 2 + r % 2];
}

// Whether a packed matrix begins with `plain` [rows, columns].
void expect_begins_with(const PackedMatrix& b, const torch::Tensor& plain_in) {
  const torch::Tensor plain = plain_in.contiguous();
  for (std::int64_t r = 0; r < plain.size(0); ++r) {
    for (std::int64_t c = 0; c < plain.size(1); ++c) {
      ASSERT_EQ(element(b, r, c), bits_of(plain)[r * plain.size(1) + c]) << r << ", " << c;
    }
  }
}

// Needs no instructions of its own: on every CPU.
TEST(PackedMatrix, HoldsRows) {
  torch::manual_seed(3);
  const torch::Tensor b = random({2, 34, 24});
  const torch::Tensor packed = pack_matrices(b);
  const PackedMatrix second{bits_of(packed) + 34 * 24, 24};
  expect_begins_with(second, b[1]);
  expect_begins_with(second.from(2, 8), b[1].narrow(0, 2, 32).narrow(1, 8, 16));
  std::vector<std::uint16_t> one(20 * 10);
  pack_matrix(bits_of(b) + 4, 24, 20, 10, one.data());
  expect_begins_with({one.data(), 10}, b[0].narrow(0, 0, 20).narrow(1, 4, 10));
}

TEST(PackedMatrix, HoldsTransposedRows) {
  torch::manual_seed(4);
  const torch::Tensor b = random({2, 37, 24});
  const torch::Tensor packed = pack_transposed(b);
  const PackedMatrix second{bits_of(packed) + 37 * 24, 37};
  expect_begins_with(second, b[1].t());
  expect_begins_with(second.from(4, 7), b[1].t().narrow(0, 4, 20).narrow(1, 7, 30));
}

// CMakeLists.txt runs this program a second time with oneDNN held below bf16 instructions: attention then goes the plain
// way (attention_test.cc) also on a CPU that has them.
TEST(PackedProductProbe, FollowsWhatOneDnnMayUse) {
  const char* most = std::getenv("ONEDNN_MAX_CPU_ISA");
  if (most) {
    EXPECT_FALSE(has_packed_product()) << most;
  }
  EXPECT_EQ(takes_packed_attention(random({1, 2, 4, 8})), has_packed_product());
  EXPECT_FALSE(takes_packed_attention(random({1, 2, 3, 8})));
  EXPECT_FALSE(takes_packed_attention(random({1, 2, 4, 7})));
}

class PackedProduct : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_packed_product()) GTEST_SKIP() << "no bf16 products of packed matrices on this CPU";
    torch::manual_seed(3);
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
  const torch::Tensor packed = pack_matrices(b);
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
