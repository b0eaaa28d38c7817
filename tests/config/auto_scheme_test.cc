// The budget of quantization.auto_scheme: what is read, and what is said of what cannot be.
#include "config/auto_scheme.h"

#include "tests/config/config_fixture.h"

namespace roundtable {
namespace {

const std::string kKey = kModel + "quantization:\n  auto_scheme: ";  // in line 4

TEST(AutoScheme, IsReadAndWrittenBack) {
  const Config config = parse(kKey + "{avg_bits: 3.5, options: [w2g64, w4g-1-asym, mxfp4, nvfp4, bf16], nsamples: 7}\n");
  const AutoScheme expected{3.5,
                            {{2, 64, Symmetry::kSym, WeightType::kInt},
                             {4, -1, Symmetry::kAsym, WeightType::kInt},
                             {4, 32, Symmetry::kSym, WeightType::kMxFp4},
                             {4, 16, Symmetry::kSym, WeightType::kNvFp4},
                             {16, 0, Symmetry::kSym, WeightType::kInt}},
                            7,
                            8,
                            false};
  EXPECT_EQ(config.quantization.auto_scheme, expected);
  EXPECT_EQ(parse(to_yaml(config)), config);
  EXPECT_FALSE(parse(kModel).quantization.auto_scheme.is_on());
  EXPECT_EQ(parse(kKey + "{}\n"), parse(kModel));
  EXPECT_EQ(parse(kModel, {"quantization.auto_scheme={avg_bits: 3.5, options: [w2g64, w4g-1-asym, mxfp4, nvfp4, bf16], "
                           "nsamples: 7}"}),
            config);
}

TEST(AutoScheme, WhatIsWrongIsNamedWithItsLine) {
  const std::string at = "c.yaml:4: auto_scheme: ";
  const auto options = [&](const std::string& words) {
    return parse_error(kKey + "{avg_bits: 3, options: [" + words + "]}\n");
  };
  for (const char* word : {"w5g64", "w4g0", "w4", "4g64", "w4g64-sym", "w4g064", "W4G64", "w4gx", "fp8"}) {
    EXPECT_THAT(options(std::string("w2g64, ") + word),
                AllOf(HasSubstr(at + "options: unknown option '" + word + "'; write w, the bits (2, 3, 4 or 8)"),
                      HasSubstr("such as w4g128")));
  }
  EXPECT_THAT(options("w4g64"), HasSubstr(at + "options: there is nothing to choose from; give at least two options"));
  EXPECT_THAT(options("w4g64, w4g64"), HasSubstr("options: expected a list of different items"));
  const std::string rest = ", options: [w2g64, w4g64]}\n";
  for (const char* bits : {"0", "0.5", "16.5", "-3", ".nan", "three"}) {
    EXPECT_THAT(parse_error(kKey + "{avg_bits: " + bits + rest),
                HasSubstr(at + "avg_bits: expected a number from 1 to 16, found"));
  }
  EXPECT_THAT(parse_error(kKey + "{avg_bits: 3, nsamples: 0" + rest), HasSubstr(at + "nsamples: expected a whole number"));
  EXPECT_THAT(parse_error(kKey + "{avg_bits: 3, batch_size: 1.5" + rest), HasSubstr(at + "batch_size: expected"));
  EXPECT_THAT(parse_error(kKey + "{avg_bits: 3, ignore_scale_zp_bits: maybe" + rest), HasSubstr("expected true or false"));
  EXPECT_THAT(parse_error(kKey + "{avg_bit: 3" + rest), HasSubstr("unknown key 'avg_bit'; did you mean avg_bits?"));
  EXPECT_THAT(parse_error(kKey + "{avg_bits: 3}\n"), HasSubstr("auto_scheme has no options; such as {avg_bits: 3.5"));
  EXPECT_THAT(parse_error(kKey + "{options: [w2g64, w4g64]}\n"), HasSubstr("auto_scheme has no avg_bits"));
  EXPECT_THAT(parse_error(kKey + "3.5\n"), HasSubstr("expected a budget and options, found '3.5'"));
}

}  // namespace
}  // namespace roundtable
