// Everything a run can be told, one struct a section. A single visit() a struct drives the YAML reader, `--set`
// overrides, `--help` and the resolved dump, so that a key is declared once.
//
// Names are AutoRound's (auto-round 0.16.1) wherever it has one.
//
// Visitor protocol:
//   visitor("key", field, "help", constraint)   for a key; the field's present value is the default
//   visitor.section("name", struct, "help")     for a section
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/format_table.h"
#include "config/byte_size.h"
#include "config/constraint.h"
#include "config/recipe.h"
#include "config/time_span.h"
#include "config/weight_rule.h"

namespace roundtable {

// Bounds far above any use, so that products of two or three counts stay inside 64 bits.
inline constexpr std::int64_t kMaxCount = std::int64_t{1} << 20;
inline constexpr std::int64_t kMaxSamples = std::int64_t{1} << 24;

struct ModelSection {
  std::string path;

  template <class Visitor>
  void visit(Visitor& v) {
    v("path", path, "a Hugging Face model directory (required)", any_text());
  }
  bool operator==(const ModelSection&) const = default;
};

struct CalibrationSection {
  std::string tokens;
  std::int64_t n_samples = 128;
  std::int64_t seqlen = 2048;
  std::string cache;
  std::string estimate;

  template <class Visitor>
  void visit(Visitor& v) {
    v("tokens", tokens, "token set made by launch/prepare_calibration.py (required by quantize)", any_text());
    v("n_samples", n_samples, "calibration samples", whole_from(1, kMaxSamples));
    v("seqlen", seqlen, "tokens a sample", whole_from(1, kMaxCount));
    v("cache", cache, "folder of boundary files for all runs of a model to share; empty: in run.directory, none shared",
      any_text());
    v("estimate", estimate,
      "a quantized checkpoint of this model, made quickly: stages start from its hidden states instead of the float model's",
      any_text());
  }
  bool operator==(const CalibrationSection&) const = default;
};

// How boundary files are laid on a parallel file system: HDF5's and MPI-IO's words. None of these changes the result.
struct StorageSection {
  std::string alignment;
  std::int64_t stripe_count = 0;
  std::string stripe_size;
  bool collective = false;

  template <class Visitor>
  void visit(Visitor& v) {
    v("alignment", alignment, "each sample begins at a multiple of it, as 1MiB; empty: where the last one ends",
      byte_size_or_none());
    v("stripe_count", stripe_count, "servers that a file is spread over (MPI-IO's striping_factor); 0: the directory's own",
      whole_from(0, kMaxCount));
    v("stripe_size", stripe_size, "bytes on one server before the next (striping_unit); empty: the directory's own",
      byte_size_or_none());
    v("collective", collective, "write through MPI-IO's collective buffering: fewer ranks write more at a time",
      true_or_false());
  }
  bool operator==(const StorageSection&) const = default;
};

struct QuantizationSection {
  std::int64_t bits = 4;
  std::int64_t group_size = 128;
  std::string scheme = "sym";
  bool enable_full_range = true;
  std::string scale_dtype = "fp16";
  std::string data_type = "int";
  WeightRules weight_config;
  std::vector<std::string> ignore_layers;
  bool quant_lm_head = false;

  template <class Visitor>
  void visit(Visitor& v) {
    v("bits", bits, "bits a weight", one_of<std::int64_t>({2, 3, 4, 8}));
    v("group_size", group_size, "weights that share a scale, along the input dimension; -1: a whole channel",
      special_or_from(-1, 1, kMaxCount));
    v("scheme", scheme, "symmetric, or asymmetric with a zero point", one_of<std::string>({"sym", "asym"}));
    v("enable_full_range", enable_full_range, "sym: use the lowest integer too, with scales of either sign",
      true_or_false());
    v("scale_dtype", scale_dtype, "type that scales are rounded to", one_of<std::string>({"fp16", "fp32"}));
    v("data_type", data_type, "type of a quantized weight: integers, or floats of 4 bits in groups of 32 (mx_fp) or 16 (nv_fp)",
      one_of<std::string>({"int", "mx_fp", "nv_fp"}));
    v("weight_config", weight_config, "settings of single layers", layer_rules());
    v("ignore_layers", ignore_layers, "names or regular expressions of layers that stay in 16 bits",
      list_or_none_of(some_text()));
    v("quant_lm_head", quant_lm_head, "quantize the head too, rounded to nearest", true_or_false());
  }
  bool operator==(const QuantizationSection&) const = default;
};

struct TuningSection {
  std::string recipe = "default";
  std::int64_t iters = 200;
  std::int64_t batch_size = 8;
  std::int64_t gradient_accumulate_steps = 1;
  double lr = 0;
  double minmax_lr = 0;
  std::string lr_scheduler = "linear";
  std::string optimizer = "signround";
  double momentum = 0;
  std::string init_scale = "search";
  bool use_quant_input = true;
  bool enable_minmax_tuning = true;
  bool not_use_mse = false;
  std::int64_t dynamic_max_gap = -1;
  std::int64_t n_blocks = 1;
  bool low_gpu_mem_usage = false;
  bool amp = true;
  std::string sampler = "strata";
  std::int64_t seed = 42;
  std::int64_t micro_batch = 0;

  template <class Visitor>
  void visit(Visitor& v) {
    v("recipe", recipe, "auto-round's values for iters, batch_size, lr, n_samples and seqlen; keys that are given win",
      one_of(kRecipes));
    v("iters", iters, "steps a block; 0: rounding to nearest", whole_from(0, kMaxCount));
    v("batch_size", batch_size, "samples a batch, over all ranks of a group", whole_from(1, kMaxCount));
    v("gradient_accumulate_steps", gradient_accumulate_steps, "batches a step", whole_from(1, kMaxCount));
    v("lr", lr, "step of the rounding; 0: 1 / iters (2 / iters up to 3 bits from 1000 iters on), 0.01 for adamw",
      finite_from(0));
    v("minmax_lr", minmax_lr, "step of the scales; 0: lr", finite_from(0));
    v("lr_scheduler", lr_scheduler, "how steps shrink over iters: to 0 in a line, not at all, or as half a cosine",
      one_of<std::string>({"linear", "constant", "cosine"}));
    v("optimizer", optimizer, "signround: the gradient's sign (AutoRound); adamw: AdamW (AutoOPTRound, AutoAdamRound)",
      one_of<std::string>({"signround", "adamw"}));
    v("momentum", momentum, "signround: part of the steps before that the gradient keeps", finite_in(0, 1));
    v("init_scale", init_scale,
      "where scales start: at the least error of rounding to nearest, weighed by each layer's inputs, or at 1 (AutoRound)",
      one_of<std::string>({"search", "one"}));
    v("use_quant_input", use_quant_input, "feed a block the quantized output of the blocks before it, inside a stage",
      true_or_false());
    v("enable_minmax_tuning", enable_minmax_tuning, "tune the scales too", true_or_false());
    v("not_use_mse", not_use_mse, "keep the last step's parameters, not those of the lowest loss", true_or_false());
    v("dynamic_max_gap", dynamic_max_gap, "end a block after so many steps without a lower loss; -1: never",
      special_or_from(-1, 1, kMaxCount));
    v("n_blocks", n_blocks, "consecutive blocks that are tuned together", whole_from(1, kMaxCount));
    v("low_gpu_mem_usage", low_gpu_mem_usage, "keep the samples' hidden states in host memory", true_or_false());
    v("amp", amp, "forward and backward passes in bf16", true_or_false());
    v("sampler", sampler, "samples of a step: one of each stratum, or drawn from the whole set",
      one_of<std::string>({"strata", "rand"}));
    v("seed", seed, "seed of the sampler", whole_from(0));
    v("micro_batch", micro_batch, "samples a forward pass; 0: a rank's share of batch_size", whole_from(0, kMaxCount));
  }
  bool operator==(const TuningSection&) const = default;
};

struct ParallelSection {
  std::int64_t shards = 0;
  std::int64_t stages = 0;
  std::int64_t threads = 0;
  std::string backend = "auto";
  std::string gradient_dtype = "fp32";

  template <class Visitor>
  void visit(Visitor& v) {
    v("shards", shards, "ranks a group; 0: as many of a node's ranks as divide the strata", whole_from(0, kMaxCount));
    v("stages", stages, "runs of blocks handed to groups; 0: one a group", whole_from(0, kMaxCount));
    v("threads", threads, "threads a rank; 0: a fair share of the node's cores", whole_from(0, kMaxCount));
    v("backend", backend, "what carries gradients and weights", one_of<std::string>({"auto", "mpi", "nccl"}));
    v("gradient_dtype", gradient_dtype,
      "type in which a group sums gradients; bf16 moves half the bytes; sign: a majority vote of signs, an experiment",
      one_of<std::string>({"fp32", "bf16", "sign"}));
  }
  bool operator==(const ParallelSection&) const = default;
};

// Figures of a cluster for the plan's forecast and its choice of a layout; configs/clusters/ has some.
struct ClusterSection {
  std::int64_t nodes = 0;
  std::int64_t devices_a_node = 1;
  double device_memory = 80;
  double matrix_rate = 400;
  double memory_bandwidth = 2000;
  double link_bandwidth = 200;
  double network_bandwidth = 40;
  double file_system_bandwidth = 2;
  double latency = 30;

  template <class Visitor>
  void visit(Visitor& v) {
    const auto figure = [] { return finite_from(1e-6); };
    v("nodes", nodes, "nodes; 0: no description, and no forecast of time", whole_from(0, kMaxCount));
    v("devices_a_node", devices_a_node, "devices of a node, each with one rank", whole_from(1, kMaxCount));
    v("device_memory", device_memory, "memory of a device, GB", figure());
    v("matrix_rate", matrix_rate, "matrix products in the activations' dtype that a device reaches, TFLOP/s", figure());
    v("memory_bandwidth", memory_bandwidth, "elementwise passes of a device, GB/s", figure());
    v("link_bandwidth", link_bandwidth, "of a device to the others in its node, in a ring, GB/s", figure());
    v("network_bandwidth", network_bandwidth, "of a device to other nodes, GB/s", figure());
    v("file_system_bandwidth", file_system_bandwidth, "of the file system to the whole job, GB/s", figure());
    v("latency", latency, "of one all-reduce, microseconds", finite_from(0));
  }
  bool operator==(const ClusterSection&) const = default;
};

struct OutputSection {
  std::string path;
  std::vector<std::string> formats = {kFormats.front()};
  std::string max_shard_size = "5GB";

  template <class Visitor>
  void visit(Visitor& v) {
    v("path", path, "directory of the quantized checkpoint (required by quantize)", any_text());
    v("formats", formats,
      "checkpoint formats, all of the same integers; with several each has a folder of its name below path, but the first",
      list_of(one_of(kFormats)));
    v("max_shard_size", max_shard_size, "largest file of weights", byte_size());
  }
  bool operator==(const OutputSection&) const = default;
};

struct RunSection {
  std::string directory;
  std::string eval_tokens;
  std::string logits;
  std::string max_time;
  std::string time_limit = "00:10:00";
  bool keep_boundaries = false;
  bool save_gradients = false;
  bool reproducible = false;

  template <class Visitor>
  void visit(Visitor& v) {
    v("directory", directory, "journal, boundaries and events; empty: output.path + \".run\"", any_text());
    v("eval_tokens", eval_tokens, "token set for perplexity; empty: none is measured", any_text());
    v("logits", logits, "eval on one rank: safetensors file for the logits of every token; empty: none", any_text());
    v("max_time", max_time, "leave in time (exit code 75) after so long; empty: never", time_span_or_none());
    v("time_limit", time_limit, "end all ranks when one of them makes no step for so long; empty: never",
      time_span_or_none());
    v("keep_boundaries", keep_boundaries, "keep the boundary files after the run; those in calibration.cache always stay",
      true_or_false());
    v("save_gradients", save_gradients, "keep each stage's first gradients, before the sign step", true_or_false());
    v("reproducible", reproducible,
      "the same bytes from 1, 2, 4, ... ranks, at one number of stages and of threads a rank; a sample a pass, slower",
      true_or_false());
  }
  bool operator==(const RunSection&) const = default;
};

struct Config {
  ModelSection model;
  CalibrationSection calibration;
  StorageSection storage;
  QuantizationSection quantization;
  TuningSection tuning;
  ParallelSection parallel;
  ClusterSection cluster;
  OutputSection output;
  RunSection run;

  template <class Visitor>
  void visit(Visitor& v) {
    v.section("model", model, "the model to quantize");
    v.section("calibration", calibration, "the samples it is tuned on");
    v.section("storage", storage, "how boundary files lie on a parallel file system");
    v.section("quantization", quantization, "the form of the quantized weights");
    v.section("tuning", tuning, "signed gradient descent on the rounding");
    v.section("parallel", parallel, "how ranks are used; none of these changes the result, but for stages");
    v.section("cluster", cluster, "the machine that plan forecasts for (--cluster FILE); quantize chooses its layout by it too");
    v.section("output", output, "what is written");
    v.section("run", run, "files of the run itself, and evaluation");
  }
  bool operator==(const Config&) const = default;
};

// Reads `path` (YAML), then `cluster_file` over it where one is given, and then applies `overrides`
// ("section.key=value", in order; the value is taken as it stands, a list as "a,b"). Every key is checked against its
// type and range, and model.path must be set. Relative paths stay as written (relative to the working directory).
// Throws Error (kBadInput) with file, line, key and the valid keys or values.
Config load_config(const std::string& path, const std::vector<std::string>& overrides,
                   const std::string& cluster_file = "");

// The same from text in memory, such as another process's to_yaml(); `place` names it in errors.
Config parse_config(const std::string& text, const std::string& place, const std::vector<std::string>& overrides = {});

// Throws Error (kBadInput) when one of these text keys ("output.path") is empty; `place` begins its line.
void require_keys(const Config& config, const std::vector<std::string>& keys, std::string_view place = "config");

// The whole config as YAML that load_config reads back to the same values.
std::string to_yaml(const Config& config);

// A table of every key, its default, its meaning and its values, for `--help`.
std::string describe_keys();

}  // namespace roundtable
