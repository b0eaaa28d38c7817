// What a finished run tells.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "rundir/block_figures.h"

namespace roundtable {

// Perplexity of the model before and after, on the same held-out tokens.
struct PerplexityPair {
  double before = 0;
  double after = 0;
  std::int64_t tokens = 0;  // that are predicted

  template <class Fields>
  void fields(Fields& f) {
    f("float", before);
    f("quantized", after);
    f("tokens", tokens);
  }
};

// How far the quantized model's distribution of the next token is from the float model's, over the same tokens.
struct Divergence {
  double mean = 0;      // of KL(float || quantized), natural logarithm
  double p99 = 0;       // its 99th percentile
  double same_top = 0;  // share of tokens where both models find the same one most likely

  template <class Fields>
  void fields(Fields& f) {
    f("mean", mean);
    f("p99", p99);
    f("same_top", same_top);
  }
};

// What auto_scheme has chosen.
struct MixedSchemes {
  double mean_bits = 0;                        // per weight, as avg_bits counts them
  std::map<std::string, std::int64_t> layers;  // by the word of an option

  template <class Fields>
  void fields(Fields& f) {
    f("mean_bits", mean_bits);
    f("layers", layers);
  }
};

// Bytes of the files of weights.
struct WeightSizes {
  std::int64_t before = 0;                      // of the model
  std::int64_t after = 0;                       // of the checkpoint in output.path
  std::map<std::string, std::int64_t> formats;  // of every output format, by its name; the first one is `after` too

  template <class Fields>
  void fields(Fields& f) {
    f("before", before);
    f("after", after);
    f("formats", formats);
  }
};

// What a finished run tells: the object that `quantize --json` prints.
struct RunSummary {
  std::string output;
  std::map<std::string, double> seconds;                        // by phase, of rank 0
  std::map<std::string, std::vector<std::int64_t>> peak_bytes;  // by phase and rank: the largest resident set
  std::map<std::string, std::vector<std::int64_t>> peak_device_bytes;  // the same of CUDA devices; empty: on CPUs
  std::optional<MixedSchemes> auto_scheme;                      // with quantization.auto_scheme
  std::optional<PerplexityPair> perplexity;                     // with run.eval_tokens
  std::optional<Divergence> divergence;                         // the same
  std::vector<std::string> experts_without_tokens;              // full names: they are rounded to nearest
  std::optional<FewTokens> experts_with_few_tokens;             // the sums over all blocks
  StepBytes bytes_per_step;                                     // in the mean of all blocks
  WeightSizes bytes;

  template <class Fields>
  void fields(Fields& f) {
    f("output", output);
    f("seconds", seconds);
    f("peak_bytes", peak_bytes);
    f("peak_device_bytes", peak_device_bytes);
    f("auto_scheme", auto_scheme);
    f("perplexity", perplexity);
    f("divergence", divergence);
    f("experts_without_tokens", experts_without_tokens);
    f("experts_with_few_tokens", experts_with_few_tokens);
    f("bytes_per_step", bytes_per_step);
    f("bytes", bytes);
  }
};

}  // namespace roundtable
