// Everything a run can be told, one struct per section. A single visit() per struct drives the YAML reader, `--set`
// overrides, `--help`, the resolved dump and the run's fingerprint, so that a key is declared once.
//
// Names are AutoRound's (auto-round 0.16.1) wherever it has one.
//
// Visitor protocol (ConfigVisitor):
//   visitor("key", field, effect, "help", constraint)   for a key; the field's present value is the default
//   visitor.section("name", struct, "help")             for a section
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "config/auto_scheme.h"
#include "config/choices.h"
#include "config/constraint.h"
#include "config/units.h"
#include "config/weight_rule.h"

namespace roundtable {

// Whether a key changes the bytes of the checkpoint. The run's fingerprint (run/fingerprint.h) is made from it: a run
// is never continued with another value of a key that changes the result.
enum class Effect {
  // Not at all. The keys by which the plan lays out the work (parallel, cluster) are of this kind too: of what the plan
  // makes of them, only the number of stages changes the result, and the fingerprint holds that number itself.
  kKeepsResult,
  kChangesResult,  // by its value
  kByContent,      // by what the file or directory at this path holds, wherever it is
};
using enum Effect;

// The call that gives a visitor a key without its effect.
template <class Visitor>
concept TakesKeyWithoutEffect = requires(Visitor& v, bool& field) {
  v("key", field, "help", true_or_false());
};

// A visitor that takes every key with its effect, and none without: a key that does not state it does not compile.
template <class Visitor>
concept ConfigVisitor = !TakesKeyWithoutEffect<Visitor> && requires(Visitor & v, bool& field) {
  v("key", field, kKeepsResult, "help", true_or_false());
};

// Bounds far above any use, so that products of two or three counts stay inside 64 bits.
inline constexpr std::int64_t kMaxCount = std::int64_t{1} << 20;
inline constexpr std::int64_t kMaxSamples = std::int64_t{1} << 24;

struct ModelSection {
  std::string path;
  std::string graph;
  bool trust_remote_code = false;

  template <ConfigVisitor Visitor>
  void visit(Visitor& v) {
    v("path", path, kByContent, "a Hugging Face model directory (required)", path_or_none());
    v("graph", graph, kKeepsResult,
      "a folder that launch/export_model.py has written, or one with several in it, for machines without Python; empty: "
      "graphs are exported when they are first needed, and kept in $XDG_CACHE_HOME/roundtable/graphs (~/.cache)",
      path_or_none());
    v("trust_remote_code", trust_remote_code, kKeepsResult,
      "run the Python code that comes with the model, where transformers does not know the model", true_or_false());
  }
  bool operator==(const ModelSection&) const = default;
};

struct CalibrationSection {
  std::string tokens;
  std::int64_t n_samples = 128;
  std::int64_t seqlen = 2048;
  std::string cache;
  std::string estimate;
  bool check_tokenizer = true;

  template <ConfigVisitor Visitor>
  void visit(Visitor& v) {
    v("tokens", tokens, kByContent, "token set made by launch/prepare_calibration.py (required by quantize)",
      path_or_none());
    v("n_samples", n_samples, kChangesResult, "number of calibration samples", whole_from(1, kMaxSamples));
    v("seqlen", seqlen, kChangesResult, "tokens per sample", whole_from(1, kMaxCount));
    v("cache", cache, kKeepsResult,
      "folder of boundary files that all runs of a model share; empty: this run keeps its own in run.directory",
      path_or_none());
    v("estimate", estimate, kByContent,
      "a quantized checkpoint of this model, made quickly: stages start from its hidden states instead of the float "
      "model's",
      path_or_none());
    v("check_tokenizer", check_tokenizer, kKeepsResult,
      "refuse token sets that another tokenizer.json than the model's has made; false: only warn of them",
      true_or_false());
  }
  bool operator==(const CalibrationSection&) const = default;
};

// How boundary files are laid out on a parallel file system, in the words of HDF5 and MPI-IO.
struct StorageSection {
  ByteSize alignment;
  std::int64_t stripe_count = 0;
  ByteSize stripe_size;
  bool collective = false;

  template <ConfigVisitor Visitor>
  void visit(Visitor& v) {
    v("alignment", alignment, kKeepsResult,
      "each sample begins at a multiple of this size, such as 1MiB; empty: where the sample before it ends",
      byte_size_or_none());
    v("stripe_count", stripe_count, kKeepsResult,
      "number of servers that a file is spread over (MPI-IO's striping_factor); 0: as the directory has it",
      whole_from(0, kMaxCount));
    v("stripe_size", stripe_size, kKeepsResult,
      "bytes on one server before the file continues on the next (striping_unit); empty: as the directory has it",
      byte_size_or_none());
    v("collective", collective, kKeepsResult,
      "write through MPI-IO's collective buffering: fewer ranks write, each of them more at a time", true_or_false());
  }
  bool operator==(const StorageSection&) const = default;
};

struct QuantizationSection {
  std::int64_t bits = 4;
  std::int64_t group_size = 128;
  Symmetry scheme = Symmetry::kSym;
  bool enable_full_range = true;
  ScaleDtype scale_dtype = ScaleDtype::kFp16;
  WeightType data_type = WeightType::kInt;
  WeightRules weight_config;
  std::vector<std::string> ignore_layers;
  bool quant_lm_head = false;
  AutoScheme auto_scheme;

  template <ConfigVisitor Visitor>
  void visit(Visitor& v) {
    v("bits", bits, kChangesResult, "bits per weight", one_of<std::int64_t>({2, 3, 4, 8}));
    v("group_size", group_size, kChangesResult,
      "number of weights that share a scale, along the input dimension; -1: all weights of an output channel",
      special_or_from(-1, 1, kMaxCount));
    v("scheme", scheme, kChangesResult, "symmetric, or asymmetric with a zero point", choice<Symmetry>());
    v("enable_full_range", enable_full_range, kChangesResult,
      "sym: use the lowest integer too, with scales of either sign", true_or_false());
    v("scale_dtype", scale_dtype, kChangesResult,
      "type that scales are rounded to; fp16 is the only one, because every format stores it", choice<ScaleDtype>());
    v("data_type", data_type, kChangesResult,
      "type of a quantized weight: integers, or floats of 4 bits in groups of 32 (mx_fp) or 16 (nv_fp)",
      choice<WeightType>());
    v("weight_config", weight_config, kChangesResult, "settings of single layers", layer_rules());
    v("ignore_layers", ignore_layers, kChangesResult, "names or regular expressions of layers that stay in 16 bits",
      list_or_none_of(some_text()));
    v("quant_lm_head", quant_lm_head, kChangesResult, "quantize the head too; it is rounded to nearest",
      true_or_false());
    v("auto_scheme", auto_scheme, kChangesResult,
      "choose a scheme for each layer that no rule names, so that the loss rises least within a mean number of bits; "
      "empty: all such layers have the one above",
      budget_or_none());
  }
  bool operator==(const QuantizationSection&) const = default;
};

struct TuningSection {
  Recipe recipe = Recipe::kDefault;
  std::int64_t iters = 200;
  std::int64_t batch_size = 8;
  std::int64_t gradient_accumulate_steps = 1;
  double lr = 0;
  double minmax_lr = 0;
  LrScheduler lr_scheduler = LrScheduler::kLinear;
  OptimizerKind optimizer = OptimizerKind::kSignRound;
  double momentum = 0;
  InitScale init_scale = InitScale::kSearch;
  std::int64_t min_expert_tokens = 0;
  bool use_quant_input = true;
  bool enable_minmax_tuning = true;
  double minmax_scale_bound = 1;
  OutlierSuppressedLoss outlier_suppressed_loss = OutlierSuppressedLoss::kNever;
  bool not_use_mse = false;
  std::int64_t dynamic_max_gap = -1;
  std::int64_t n_blocks = 1;
  bool low_gpu_mem_usage = false;
  bool amp = true;
  SamplerKind sampler = SamplerKind::kStrata;
  std::int64_t seed = 42;
  std::int64_t micro_batch = 0;
  bool enable_deterministic_algorithms = true;

  template <ConfigVisitor Visitor>
  void visit(Visitor& v) {
    // The keys that a recipe sets are the ones that change the result.
    v("recipe", recipe, kKeepsResult,
      "auto-round's values for iters, batch_size, lr, n_samples and seqlen; a key that is given wins",
      choice<Recipe>());
    v("iters", iters, kChangesResult, "steps per block; 0: rounding to nearest", whole_from(0, kMaxCount));
    v("batch_size", batch_size, kChangesResult, "samples per batch, over all ranks of a group",
      whole_from(1, kMaxCount));
    v("gradient_accumulate_steps", gradient_accumulate_steps, kChangesResult, "batches per step",
      whole_from(1, kMaxCount));
    v("lr", lr, kChangesResult,
      "step size of the rounding; 0: 1 / iters (2 / iters up to 3 bits from 1000 iters on), 0.01 for adamw",
      finite_from(0));
    v("minmax_lr", minmax_lr, kChangesResult, "step size of the scales; 0: the same as lr", finite_from(0));
    v("lr_scheduler", lr_scheduler, kChangesResult,
      "how the step size falls over iters: along a line to 0, not at all, or along half a cosine",
      choice<LrScheduler>());
    v("optimizer", optimizer, kChangesResult,
      "signround: the gradient's sign (AutoRound); adamw: AdamW (AutoOPTRound, AutoAdamRound)",
      choice<OptimizerKind>());
    v("momentum", momentum, kChangesResult, "signround: how much of the earlier steps the gradient keeps",
      finite_in(0, 1));
    v("init_scale", init_scale, kChangesResult,
      "where scales start: at the least error of rounding to nearest, weighed by each layer's inputs (SignRoundV2), or "
      "at 1 (AutoRound)",
      choice<InitScale>());
    v("min_expert_tokens", min_expert_tokens, kChangesResult,
      "for the search of scales, an expert that fewer tokens of the calibration set choose is shown others, and the run "
      "says so; 0: none",
      whole_from(0, kMaxSamples));
    v("use_quant_input", use_quant_input, kChangesResult,
      "inside a stage, a block's input is the quantized output of the blocks before it", true_or_false());
    v("enable_minmax_tuning", enable_minmax_tuning, kChangesResult, "tune the scales too", true_or_false());
    v("minmax_scale_bound", minmax_scale_bound, kChangesResult,
      "the largest factor on where a scale starts: 1 (AutoRound) or 2 (SignRoundV2)", finite_within(1, 4));
    v("outlier_suppressed_loss", outlier_suppressed_loss, kChangesResult,
      "leave the largest 0.1 % of the errors of each sample out of the loss (SignRoundV2: below 4 bits)",
      choice<OutlierSuppressedLoss>());
    v("not_use_mse", not_use_mse, kChangesResult, "keep the last step's parameters, not those of the lowest loss",
      true_or_false());
    v("dynamic_max_gap", dynamic_max_gap, kChangesResult,
      "a block ends after this many steps without a lower loss; -1: it never ends early",
      special_or_from(-1, 1, kMaxCount));
    v("n_blocks", n_blocks, kChangesResult, "number of consecutive blocks that are tuned together",
      whole_from(1, kMaxCount));
    v("low_gpu_mem_usage", low_gpu_mem_usage, kKeepsResult, "keep the samples' hidden states in host memory",
      true_or_false());
    v("amp", amp, kChangesResult, "run forward and backward passes in bf16", true_or_false());
    v("sampler", sampler, kChangesResult, "samples of a step: one of each stratum, or drawn from the whole set",
      choice<SamplerKind>());
    v("seed", seed, kChangesResult, "seed of the sampler", whole_from(0));
    v("micro_batch", micro_batch, kKeepsResult, "samples per forward pass; 0: a rank's share of batch_size",
      whole_from(0, kMaxCount));
    v("enable_deterministic_algorithms", enable_deterministic_algorithms, kKeepsResult,
      "on CUDA devices, take only operators that give the same bits each time: a run that was interrupted then writes the "
      "bytes of one that was not",
      true_or_false());
  }
  bool operator==(const TuningSection&) const = default;
};

struct ParallelSection {
  std::int64_t shards = 0;
  std::int64_t stages = 0;
  std::int64_t threads = 0;
  Experts experts = Experts::kAuto;
  Backend backend = Backend::kAuto;
  bool share_devices = false;
  GradientDtype gradient_dtype = GradientDtype::kFp32;

  template <ConfigVisitor Visitor>
  void visit(Visitor& v) {
    v("shards", shards, kKeepsResult, "ranks per group; 0: as many of a node's ranks as divide the strata",
      whole_from(0, kMaxCount));
    // The fingerprint holds the number of stages that the plan makes of this key.
    v("stages", stages, kKeepsResult, "number of stages, each a sequence of blocks; 0: one per group",
      whole_from(0, kMaxCount));
    v("threads", threads, kKeepsResult, "threads per rank; 0: an equal share of the node's cores",
      whole_from(0, kMaxCount));
    // The journal holds the number of parts, because the names of files follow from it.
    v("experts", experts, kKeepsResult,
      "the experts of a block: divided over the ranks of a group, or all of them on each rank", choice<Experts>());
    v("backend", backend, kKeepsResult,
      "the library that carries gradients and weights: nccl for CUDA devices, mpi for CPUs, auto for what is there",
      choice<Backend>());
    v("share_devices", share_devices, kKeepsResult,
      "let several ranks use one CUDA device; they must be in groups of their own, because NCCL allows no other way",
      true_or_false());
    v("gradient_dtype", gradient_dtype, kChangesResult,
      "type in which a group sums gradients; bf16 moves half the bytes; sign: a majority vote of signs, an experiment",
      choice<GradientDtype>());
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

  template <ConfigVisitor Visitor>
  void visit(Visitor& v) {
    const auto figure = [] { return finite_from(1e-6); };
    v("nodes", nodes, kKeepsResult, "number of nodes; 0: no cluster is described, and no time is forecast",
      whole_from(0, kMaxCount));
    v("devices_a_node", devices_a_node, kKeepsResult, "devices per node, each with one rank", whole_from(1, kMaxCount));
    v("device_memory", device_memory, kKeepsResult, "memory of a device, GB", figure());
    v("matrix_rate", matrix_rate, kKeepsResult,
      "rate of matrix products that a device reaches in the activations' type, TFLOP/s", figure());
    v("memory_bandwidth", memory_bandwidth, kKeepsResult, "rate of elementwise passes on a device, GB/s", figure());
    v("link_bandwidth", link_bandwidth, kKeepsResult,
      "rate from a device to the other devices of its node, in a ring, GB/s", figure());
    v("network_bandwidth", network_bandwidth, kKeepsResult, "rate from a device to other nodes, GB/s", figure());
    v("file_system_bandwidth", file_system_bandwidth, kKeepsResult, "rate of the file system to the whole job, GB/s",
      figure());
    v("latency", latency, kKeepsResult, "time of one small all-reduce, microseconds", finite_from(0));
  }
  bool operator==(const ClusterSection&) const = default;
};

struct OutputSection {
  std::string path;
  // Names of export/'s table. The config knows nothing of it: make_plan() refuses a name that is not in the table.
  std::vector<std::string> formats = {"auto_round:auto_gptq"};
  ByteSize max_shard_size{"5GB"};

  template <ConfigVisitor Visitor>
  void visit(Visitor& v) {
    v("path", path, kKeepsResult, "directory of the quantized checkpoint (required by quantize)", path_or_none());
    v("formats", formats, kChangesResult,
      "checkpoint formats, all made from the same integers (the names are listed below); the first is written to path, "
      "each other one to a folder of its name in path",
      list_of(some_text()));
    v("max_shard_size", max_shard_size, kChangesResult, "largest size of a file of weights", byte_size());
  }
  bool operator==(const OutputSection&) const = default;
};

struct RunSection {
  std::string directory;
  std::string eval_tokens;
  std::string logits;
  TimeSpan max_time;
  TimeSpan time_limit{"00:10:00"};
  bool keep_boundaries = false;
  bool save_gradients = false;
  bool reproducible = false;

  template <ConfigVisitor Visitor>
  void visit(Visitor& v) {
    v("directory", directory, kKeepsResult,
      "folder of the journal, boundaries and events; empty: output.path + \".run\"", path_or_none());
    v("eval_tokens", eval_tokens, kKeepsResult, "token set for perplexity; empty: no perplexity is measured",
      path_or_none());
    v("logits", logits, kKeepsResult,
      "eval on one rank: safetensors file that the logits of every token are written to; empty: no file",
      path_or_none());
    v("max_time", max_time, kKeepsResult,
      "the run stops by itself after this time, with exit code 75, and can be resumed; empty: no limit",
      time_span_or_none());
    v("time_limit", time_limit, kKeepsResult,
      "all ranks end when one of them has not made a step for this time; empty: no limit", time_span_or_none());
    v("keep_boundaries", keep_boundaries, kKeepsResult,
      "keep the boundary files after the run; those in calibration.cache always stay", true_or_false());
    v("save_gradients", save_gradients, kKeepsResult,
      "save the first gradients of each stage, as they are before the sign step", true_or_false());
    v("reproducible", reproducible, kChangesResult,
      "write the same bytes on 1, 2, 4, ... ranks, if the number of stages and of threads per rank stays the same; "
      "slower: one sample per pass",
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

  template <ConfigVisitor Visitor>
  void visit(Visitor& v) {
    v.section("model", model, "the model to quantize");
    v.section("calibration", calibration, "the samples that it is tuned on");
    v.section("storage", storage, "how boundary files are laid out on a parallel file system");
    v.section("quantization", quantization, "the form of the quantized weights");
    v.section("tuning", tuning, "signed gradient descent on the rounding");
    v.section("parallel", parallel, "how ranks are used; only stages and gradient_dtype change the result");
    v.section("cluster", cluster,
              "the machine that plan forecasts for (--cluster FILE); quantize chooses its layout by it too");
    v.section("output", output, "what is written");
    v.section("run", run, "files of the run itself, and evaluation");
  }
  bool operator==(const Config&) const = default;
};

// Reads `path` (YAML), then `cluster_file` over it if one is given, and then applies `overrides` ("section.key=value",
// in order; the value is taken as it is written, a list as "a,b" or "[a, b]"). Every key is checked against its type
// and range, and model.path must be set. Paths are what path_from_user() makes of them: relative ones stay relative to
// the working directory. Throws Error (kBadInput) with file, line, key and the valid keys or values.
Config load_config(const std::string& path, const std::vector<std::string>& overrides,
                   const std::string& cluster_file = "");

// The same from text in memory, such as another process's to_yaml(); `place` names it in errors.
Config parse_config(const std::string& text, const std::string& place, const std::vector<std::string>& overrides = {});

// Throws Error (kBadInput) if one of these text keys ("output.path") is empty; `place` begins its line.
void require_keys(const Config& config, const std::vector<std::string>& keys, std::string_view place = "config");

// The whole config as YAML that load_config reads back to the same values.
std::string to_yaml(const Config& config);

// A table of every key with its meaning, its values and its default, for `--help`.
std::string describe_keys();

}  // namespace roundtable
