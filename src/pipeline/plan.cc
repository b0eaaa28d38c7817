// Planning: layout of ranks, stages and schemes; checks of everything that can be checked; forecasts.
#include "pipeline/plan.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>

#include "base/error.h"
#include "comm/rank_grid.h"
#include "export/auto_gptq.h"
#include "model/tensor_source.h"

namespace roundtable {
namespace {

void decide_schemes(const Config& config, Plan& plan) {
  const QuantScheme scheme = scheme_of(config.quantization);
  for (const LinearSpec& linear : block_linears(plan.model)) {
    const auto obstacle = auto_gptq_obstacle(linear, scheme);
    plan.schemes.push_back(obstacle ? std::nullopt : std::optional<QuantScheme>(scheme));
    if (!obstacle) continue;
    // One line for all experts.
    const std::string& experts = plan.model.block_names.experts;
    const std::int64_t expert = expert_of(plan.model, linear.name);
    if (expert > 0) continue;
    const std::string name = expert < 0 ? linear.name : experts + ".*" + linear.name.substr(experts.size() + 2);
    plan.float_reasons.push_back(fmt::format("{} stays in 16 bits: {}", name, *obstacle));
  }
  if (std::none_of(plan.schemes.begin(), plan.schemes.end(), [](const auto& s) { return s.has_value(); })) {
    throw bad_input("quantization", fmt::format("no layer can be quantized: {}", fmt::join(plan.float_reasons, "; ")),
                    "choose a group_size that divides the layers' input dimensions");
  }
}

std::int64_t element_count(const ParameterSpec& spec) {
  return std::accumulate(spec.shape.begin(), spec.shape.end(), std::int64_t{1}, std::multiplies<>());
}

std::int64_t count_stages(const Config& config, const Plan& plan) {
  // A block tuned on the float chain needs nothing of the blocks before it.
  if (!config.tuning.use_quant_input) return plan.model.n_blocks;
  if (config.parallel.stages == 0) return std::min<std::int64_t>(plan.groups, plan.model.n_blocks);
  if (config.parallel.stages > plan.model.n_blocks) {
    throw bad_input("parallel.stages",
                    fmt::format("{} stages are more than the model's {} blocks", config.parallel.stages,
                                plan.model.n_blocks));
  }
  return config.parallel.stages;
}

void forecast(const Config& config, Plan& plan) {
  const std::int64_t element = config.tuning.amp ? 2 : 4;
  const std::vector<LinearSpec> linears = block_linears(plan.model);
  std::int64_t quantized_bytes = 0;
  for (std::size_t i = 0; i < plan.schemes.size(); ++i) {
    const LinearSpec& linear = linears[i];
    const std::int64_t n = linear.out * linear.in;
    plan.block_parameters += n;
    if (plan.schemes[i]) {
      const std::int64_t groups = plan.schemes[i]->groups(linear.in);
      quantized_bytes += n * plan.schemes[i]->bits / 8 + groups * linear.out * (2 + plan.schemes[i]->bits / 8);
    } else {
      quantized_bytes += n * 2;
    }
  }
  const std::int64_t samples = (config.calibration.n_samples + plan.shards - 1) / plan.shards;
  const std::int64_t state = config.calibration.seqlen * plan.model.hidden_size * element;
  const std::int64_t in_step = (plan.batch + plan.shards - 1) / plan.shards;
  const std::int64_t in_pass = config.tuning.micro_batch > 0 ? std::min(config.tuning.micro_batch, in_step) : in_step;
  // Activations kept for the backward pass of one sample, in units of one token's elements.
  const std::int64_t mlps = std::max<std::int64_t>(1, plan.model.experts_per_token);
  // Capped attention keeps its scores; a fused one makes them anew.
  const bool capped = plan.model.attention_soft_cap > 0;
  const std::int64_t scores = capped ? 4 * plan.model.n_heads * config.calibration.seqlen : 0;
  const std::int64_t a_token = 12 * plan.model.hidden_size + 5 * mlps * plan.model.intermediate_size +
                               6 * plan.model.n_heads * plan.model.head_dim + scores;
  // Weights as read and as computed with, v, gradient arena, the best integers; then chains, target and one spare.
  plan.bytes_a_rank = plan.block_parameters * (2 + element + 4 + 4 + 1) + 4 * samples * state +
                      in_pass * config.calibration.seqlen * a_token * (element + 2);
  plan.boundary_bytes = static_cast<std::int64_t>(plan.stages.size()) * config.calibration.n_samples * state;
  std::int64_t outside = 0;
  for (const ParameterSpec& spec : outside_parameters(plan.model)) outside += 2 * element_count(spec);
  for (const ParameterSpec& norm : block_norms(plan.model)) outside += 2 * plan.model.n_blocks * element_count(norm);
  plan.output_bytes = quantized_bytes * plan.model.n_blocks + outside;
  plan.reduced_bytes_a_step = plan.shards > 1 ? plan.block_parameters * 4 : 0;
}

void check_samples(const Config& config, const Plan& plan) {
  if (config.calibration.n_samples < plan.batch) {
    throw bad_input("calibration.n_samples",
                    fmt::format("{} samples cannot fill a batch of {} (tuning.batch_size * "
                                "tuning.gradient_accumulate_steps)",
                                config.calibration.n_samples, plan.batch),
                    "ask for more samples or a smaller batch");
  }
}

void check_tokens(const Config& config, Plan& plan) {
  const auto& calibration = config.calibration;
  load_tokens(calibration.tokens, calibration.n_samples, calibration.seqlen, plan.model.vocab_size);
  check_length(plan.model, calibration.seqlen, "calibration.seqlen");
  if (!config.run.eval_tokens.empty()) {
    const TokenRows rows = load_tokens(config.run.eval_tokens, 0, 0, plan.model.vocab_size);
    check_length(plan.model, rows.seqlen, config.run.eval_tokens);
  }
  if (calibration.seqlen > plan.model.max_position_embeddings) {
    plan.warnings.push_back(fmt::format("calibration.seqlen {} is beyond the model's max_position_embeddings {}",
                                        calibration.seqlen, plan.model.max_position_embeddings));
  }
}

// Every tensor of every block is there in the right shape, and none that we would drop unawares.
void check_tensors(const Config& config, Plan& plan) {
  const Checkpoint checkpoint(config.model.path);
  std::set<std::string> expected;
  const auto expect = [&](const std::string& name, const ParameterSpec& spec) {
    const std::string stored = stored_name(checkpoint, name);
    expected.insert(stored);
    const TensorInfo& info = checkpoint.info(stored);
    if (info.shape == spec.stored_shape()) return;
    throw bad_input(fmt::format("{}/{}: tensor '{}'", config.model.path, checkpoint.file_of(stored), stored),
                    fmt::format("has shape [{}] and config.json calls for [{}]", fmt::join(info.shape, ", "),
                                fmt::join(spec.stored_shape(), ", ")));
  };
  for (std::int64_t block = 0; block < plan.model.n_blocks; ++block) {
    for (const ParameterSpec& spec : block_parameters(plan.model)) {
      expect(plan.model.block_name(block) + "." + spec.name, spec);
    }
  }
  for (const ParameterSpec& spec : outside_parameters(plan.model)) expect(spec.name, spec);
  for (const std::string& name : checkpoint.names()) {
    if (expected.contains(name) || is_derived_table(name) || name == plan.model.names.head + ".weight") continue;
    throw bad_input(fmt::format("{}/{}: tensor '{}'", config.model.path, checkpoint.file_of(name), name),
                    fmt::format("is not part of a '{}' model", plan.model.model_type),
                    "check model_type, the biases and the number of layers in config.json");
  }
}

}  // namespace

QuantScheme scheme_of(const QuantizationSection& section) {
  QuantScheme scheme;
  scheme.bits = static_cast<int>(section.bits);
  scheme.group_size = section.group_size;
  scheme.symmetric = section.scheme == "sym";
  scheme.full_range = section.enable_full_range;
  scheme.fp16_scale = section.scale_dtype == "fp16";
  // auto_round:auto_gptq stores zero point - 1: a zero point of 0 has no place there.
  scheme.min_zero_point = 1;
  return scheme;
}

void check_length(const ModelConfig& model, std::int64_t seqlen, const std::string& place) {
  if (model.names.positions.empty() || seqlen <= model.max_position_embeddings) return;
  throw bad_input(place, fmt::format("{} tokens are more than the {} positions that the model has learned", seqlen,
                                     model.max_position_embeddings),
                  "make the token set with a smaller --seqlen");
}

std::vector<Stage> cut_stages(std::int64_t blocks, std::int64_t stages) {
  std::vector<Stage> cut;
  std::int64_t first = 0;
  for (std::int64_t i = 0; i < stages; ++i) {
    const std::int64_t size = blocks / stages + (i < blocks % stages ? 1 : 0);
    cut.push_back({first, first + size});
    first += size;
  }
  return cut;
}

Plan lay_out(const Config& config, const World& world) {
  Plan plan;
  plan.model = load_model_config(config.model.path);
  plan.world = world;
  plan.batch = config.tuning.batch_size * config.tuning.gradient_accumulate_steps;
  plan.shards = choose_shards(config.parallel.shards, world.ranks, world.ranks_a_node, plan.batch);
  plan.groups = world.ranks / plan.shards;
  plan.stages = cut_stages(plan.model.n_blocks, count_stages(config, plan));
  if (!scheme_of(config.quantization).symmetric) {
    // auto-round 0.16.1, inference/backend.py: its torch_zp backend takes sym alone.
    plan.warnings.push_back("asym in auto_round:auto_gptq is read on GPUs; auto-round 0.16.1 has no CPU backend for it");
  }
  if (static_cast<std::int64_t>(plan.stages.size()) < plan.groups) {
    plan.warnings.push_back(fmt::format("{} groups for {} stages: some ranks will have no work",
                                        plan.groups, plan.stages.size()));
  }
  if (config.quantization.scale_dtype != "fp16") {
    throw bad_input("quantization.scale_dtype", "auto_round:auto_gptq stores scales in fp16", "set it to fp16");
  }
  decide_schemes(config, plan);
  check_samples(config, plan);
  forecast(config, plan);
  return plan;
}

Plan make_plan(const Config& config, const World& world) {
  Plan plan = lay_out(config, world);
  check_tensors(config, plan);
  check_tokens(config, plan);
  return plan;
}

std::string human_bytes(std::int64_t bytes) {
  const double value = static_cast<double>(bytes);
  if (value >= 1e9) return fmt::format("{:.2f} GB", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.1f} MB", value / 1e6);
  return fmt::format("{:.1f} kB", value / 1e3);
}

std::string describe(const Plan& plan, const Config& config) {
  std::string text;
  const auto line = [&](const char* what, const std::string& value) { text += fmt::format("  {:<12} {}\n", what, value); };
  const auto& q = config.quantization;
  text += "plan\n";
  line("model", fmt::format("{} ({}), {} blocks of {:.1f} M weights", config.model.path, plan.model.model_type,
                            plan.model.n_blocks, static_cast<double>(plan.block_parameters) / 1e6));
  line("weights", fmt::format("{} bits, {}, {}, {}", q.bits, q.scheme,
                              q.group_size < 0 ? "one group a channel" : fmt::format("groups of {}", q.group_size),
                              config.output.formats.front()));
  line("ranks", fmt::format("{} = {} groups x {} shards, {} a node", plan.world.ranks, plan.groups, plan.shards,
                            plan.world.ranks_a_node));
  line("stages", fmt::format("{} of up to {} blocks", plan.stages.size(), plan.stages.front().size()));
  line("steps", fmt::format("{} iterations a block, {} samples a step of {} tokens", config.tuning.iters, plan.batch,
                            config.calibration.seqlen));
  line("memory", fmt::format("about {} a rank in tuning", human_bytes(plan.bytes_a_rank)));
  line("disk", fmt::format("{} of boundaries, {} of output", human_bytes(plan.boundary_bytes),
                           human_bytes(plan.output_bytes)));
  line("reduced", fmt::format("{} a step inside each group", human_bytes(plan.reduced_bytes_a_step)));
  for (const std::string& reason : plan.float_reasons) line("16 bits", reason);
  for (const std::string& warning : plan.warnings) line("warning", warning);
  return text;
}

}  // namespace roundtable
