// Everything a run can be told, one struct a section. A single visit() a struct drives the YAML reader, `--set`
// overrides, `--help` and the resolved dump, so that a key is declared once.
//
// Names are AutoRound's (auto-round 0.16.1) wherever it has one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace roundtable {

// Visitor protocol: visitor("key", field, "help", constraint), see config/constraint.h.

struct ModelSection {
  std::string path;  // a Hugging Face model directory

  template <class Visitor>
  void visit(Visitor& v);
};

struct CalibrationSection {
  std::string tokens;           // token set made by launch/prepare_calibration.py
  std::int64_t n_samples = 128;
  std::int64_t seqlen = 2048;

  template <class Visitor>
  void visit(Visitor& v);
};

struct QuantizationSection {
  std::int64_t bits = 4;
  std::int64_t group_size = 128;   // -1: one group a channel
  std::string scheme = "sym";      // sym | asym
  bool enable_full_range = true;   // sym only
  std::string scale_dtype = "fp16";
  std::string data_type = "int";

  template <class Visitor>
  void visit(Visitor& v);
};

struct TuningSection {
  std::int64_t iters = 200;        // 0: rounding to nearest
  std::int64_t batch_size = 8;
  std::int64_t gradient_accumulate_steps = 1;
  double lr = 0;                   // 0: 1 / iters
  double minmax_lr = 0;            // 0: lr
  bool use_quant_input = true;
  bool enable_minmax_tuning = true;
  bool not_use_mse = false;        // keep the last parameters, not the best
  bool amp = true;                 // forward and backward in bf16
  std::string sampler = "strata";  // strata | rand
  std::int64_t seed = 42;
  std::int64_t micro_batch = 0;    // samples a forward pass; 0: a rank's whole share of a batch

  template <class Visitor>
  void visit(Visitor& v);
};

struct ParallelSection {
  std::int64_t shards = 0;        // ranks a group; 0: as many of a node's ranks as divide the strata
  std::int64_t stages = 0;        // 0: one a group
  std::int64_t threads = 0;       // threads a rank; 0: a fair share of the node's cores
  std::string backend = "auto";   // auto | mpi | nccl

  template <class Visitor>
  void visit(Visitor& v);
};

struct OutputSection {
  std::string path;
  std::vector<std::string> formats = {"auto_round:auto_gptq"};

  template <class Visitor>
  void visit(Visitor& v);
};

struct RunSection {
  std::string directory;          // journal, boundaries, events; empty: output.path + ".run"
  std::string eval_tokens;        // token set for perplexity; empty: none is measured
  bool keep_boundaries = false;
  bool save_gradients = false;    // keep each stage's first gradients, before the sign step

  template <class Visitor>
  void visit(Visitor& v);
};

struct Config {
  ModelSection model;
  CalibrationSection calibration;
  QuantizationSection quantization;
  TuningSection tuning;
  ParallelSection parallel;
  OutputSection output;
  RunSection run;

  template <class Visitor>
  void visit(Visitor& v);
};

// Reads `path` (YAML) and then applies `overrides` ("section.key=value", in order). Every key is checked against its
// type and range. Relative paths stay as written (relative to the working directory).
// Throws Error (kBadInput) with file, line, key and the valid keys or values.
Config load_config(const std::string& path, const std::vector<std::string>& overrides);

// The whole config as YAML that load_config reads back to the same values.
std::string to_yaml(const Config& config);

// A table of every key, its default and its meaning, for `--help`.
std::string describe_keys();

}  // namespace roundtable
