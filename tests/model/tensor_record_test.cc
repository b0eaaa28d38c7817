// What is looked at in every tensor that is read of a model: numbers that are not finite, and bytes that were changed.
#include "model/load/tensor_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <bit>
#include <cmath>
#include <limits>

#include "io/safetensors.h"
#include "model/load/tensor_source.h"
#include "tests/io/temporary_folder.h"
#include "tests/io/throws_error.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// One value of a type, as the file has it.
struct Value {
  ElementType type;
  std::uint64_t bits;
  bool finite;
};

TEST(AllFinite, OfEachTypeAtEachPlace) {
  const std::vector<Value> values = {
      {ElementType::kBF16, 0x7f7f, true},   // the largest
      {ElementType::kBF16, 0x7f80, false},  // Inf
      {ElementType::kBF16, 0xff80, false},  // -Inf
      {ElementType::kBF16, 0xffc1, false},  // NaN
      {ElementType::kBF16, 0x007f, true},   // a mantissa that is all ones
      {ElementType::kF16, 0x7bff, true},
      {ElementType::kF16, 0x7c00, false},
      {ElementType::kF16, 0xfe00, false},
      {ElementType::kF16, 0x3f80, true},  // bf16's 1
      {ElementType::kF32, std::bit_cast<std::uint32_t>(std::numeric_limits<float>::max()), true},
      {ElementType::kF32, std::bit_cast<std::uint32_t>(-std::numeric_limits<float>::infinity()), false},
      {ElementType::kF32, std::bit_cast<std::uint32_t>(std::nanf("")), false},
      {ElementType::kF32, 0x7f7f7f80, true},  // bf16's Inf in the lower half
      {ElementType::kF64, std::bit_cast<std::uint64_t>(std::numeric_limits<double>::max()), true},
      {ElementType::kF64, std::bit_cast<std::uint64_t>(std::numeric_limits<double>::infinity()), false},
      {ElementType::kI32, 0x7f800000, true},
  };
  constexpr std::size_t kElements = 70'000;  // more than a piece
  for (const Value& value : values) {
    const std::size_t size = size_of(value.type);
    for (const std::size_t at : {std::size_t{0}, std::size_t{1}, std::size_t{37}, kElements / 2, kElements - 1}) {
      std::vector<char> data(kElements * size, 0);
      std::memcpy(data.data() + at * size, &value.bits, size);
      TensorCheck check(value.type);
      check.update(data.data(), data.size());
      EXPECT_EQ(check.finite(), value.finite) << std::hex << value.bits << " at " << std::dec << at;
    }
  }
}

TEST(LargestExponent, IsOfTheLargestMagnitude) {
  const auto exponent = [](ElementType type, const torch::Tensor& values) {
    TensorCheck check(type);
    check.update(values.const_data_ptr(), values.nbytes());
    return check.exponent();
  };
  for (const float largest : {1.0f, -1.5f, 2.0f, 32767.0f, -32768.0f, 65504.0f}) {
    torch::Tensor values = torch::rand({70'000}).mul(0.5f);
    values[65'999] = largest;
    const int want = std::ilogb(largest);
    EXPECT_EQ(exponent(ElementType::kF32, values), want) << largest;
    EXPECT_EQ(exponent(ElementType::kF16, values.to(torch::kFloat16)), largest == 32767 ? 15 : want) << largest;
    EXPECT_EQ(exponent(ElementType::kBF16, values.to(torch::kBFloat16)),
              std::fabs(largest) > 32000 ? std::ilogb(torch::tensor(largest).to(torch::kBFloat16).item<float>()) : want)
        << largest;
  }
  EXPECT_EQ(exponent(ElementType::kF32, torch::zeros({8})), -126);
  EXPECT_EQ(exponent(ElementType::kF16, torch::zeros({8}, torch::kFloat16)), -14);
}

class Source : public ::testing::Test {
 protected:
  void write(const torch::Tensor& tensor) {
    write_safetensors(folder_.path() + "/model.safetensors",
                      {{"w", tensor.scalar_type() == torch::kFloat16 ? ElementType::kF16 : ElementType::kF32,
                        tensor.sizes().vec(), tensor.const_data_ptr()}});
  }
  ParameterSpec spec() const { return {"w", {kRows, 3}, false}; }

  static constexpr std::int64_t kRows = 500'000;  // 6 MB: more than a piece of check()
  TemporaryFolder folder_;
  TensorRecord record_;
};

TEST_F(Source, EveryWayToReadLooksAtTheNumbers) {
  for (const auto type : {torch::kFloat32, torch::kFloat16}) {
    torch::Tensor tensor = torch::ones({kRows, 3}, type);
    tensor[kRows - 1][2] = std::numeric_limits<double>::quiet_NaN();
    write(tensor);
    const CheckpointSource source(folder_.path(), &record_);
    const auto names_it = AllOf(HasSubstr(folder_.path() + "/model.safetensors: tensor 'w'"), HasSubstr("not finite"));
    EXPECT_ERROR(source.read(spec()), ExitCode::kNumeric, names_it);
    EXPECT_ERROR(source.read_bytes("w"), ExitCode::kNumeric, names_it);
    EXPECT_ERROR(source.check({"w"}), ExitCode::kNumeric, names_it);
  }
  EXPECT_FALSE(record_.contains("w"));
}

TEST_F(Source, AnyWayToReadFindsAChangedByte) {
  torch::Tensor tensor = torch::ones({kRows, 3});
  write(tensor);
  CheckpointSource(folder_.path(), &record_).check({"w"});
  const TensorRecord::Digests found = record_.take_new();
  ASSERT_EQ(found.size(), 1u);
  EXPECT_TRUE(record_.take_new().empty()) << "was taken";
  {
    const CheckpointSource source(folder_.path(), &record_);
    EXPECT_TRUE(source.read(spec()).equal(tensor));
    const std::vector<char> bytes = source.read_bytes("w");
    EXPECT_EQ(std::memcmp(bytes.data(), tensor.const_data_ptr(), bytes.size()), 0);
    EXPECT_NO_THROW(source.check({"w"}));
  }
  tensor[kRows / 2][1] = 1.0000001;
  write(tensor);
  const auto names_it = AllOf(HasSubstr("model.safetensors: tensor 'w'"), HasSubstr("the model was changed"),
                              HasSubstr("choose another output.path"));
  TensorRecord of_a_restart;
  of_a_restart.add(found);
  for (TensorRecord* record : {&record_, &of_a_restart}) {
    const CheckpointSource source(folder_.path(), record);
    EXPECT_BAD_INPUT(source.read(spec()), names_it);
    EXPECT_BAD_INPUT(source.read_bytes("w"), names_it);
    EXPECT_BAD_INPUT(source.check({"w"}), names_it);
    EXPECT_TRUE(record->take_new().empty());
  }
  EXPECT_NO_THROW(CheckpointSource(folder_.path()).read(spec())) << "nothing is known without a record";
}

}  // namespace
}  // namespace roundtable
