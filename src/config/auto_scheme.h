// quantization.auto_scheme: a budget of bits, and the schemes from which each layer gets one (auto-round's AutoScheme).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/choices.h"
#include "config/constraint.h"

namespace roundtable {

struct YamlNode;

// A scheme as one word: "w4g128", "w2g64-asym", "w8g-1", "mxfp4", "nvfp4", "bf16".
struct SchemeOption {
  std::int64_t bits = 16;  // 16: the layer stays as it is
  std::int64_t group_size = 0;
  Symmetry scheme = Symmetry::kSym;
  WeightType data_type = WeightType::kInt;

  bool keeps_float() const { return bits == 16; }
  std::string word() const;
  bool operator==(const SchemeOption&) const = default;
};

// Names are those of auto-round 0.16.1, auto_scheme/gen_auto_scheme.py, class AutoScheme.
struct AutoScheme {
  double avg_bits = 0;                // in the mean over all weights, scales and zero points counted; 0: not asked for
  std::vector<SchemeOption> options;  // at least two
  std::int64_t nsamples = 64;         // of the calibration set, from its beginning; or all, if they are fewer
  std::int64_t batch_size = 8;        // samples whose gradients are added before absolute values are taken
  bool ignore_scale_zp_bits = false;  // scales and zero points are not counted

  bool is_on() const { return avg_bits > 0; }
  bool operator==(const AutoScheme&) const = default;
};

// Reads "{avg_bits: 3.5, options: [w2g64, w4g64], ...}"; nothing and {} leave it off. Throws Error (kBadInput), which
// begins with the line, for an unknown or missing key and for a wrong value.
AutoScheme read_auto_scheme(const YamlNode& node, const std::string& file, const std::string& place);

// For `--help`. The reader checks every key itself and says what is wrong.
inline Constraint<AutoScheme> budget_or_none() {
  return {"{avg_bits: from 1 to 16, options: [two or more of wBITSgSIZE, wBITSgSIZE-asym, mxfp4, nvfp4, bf16], nsamples:, "
          "batch_size:, ignore_scale_zp_bits:}",
          [](const AutoScheme&) { return true; }};
}

// As a YAML flow mapping that read_auto_scheme takes.
std::string written(const AutoScheme& auto_scheme);

}  // namespace roundtable
