// Planning: layout of ranks, stages and schemes; checks of everything that can be checked; forecasts.
#include "pipeline/plan.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "comm/rank_grid.h"
#include "io/checkpoint.h"
#include "pipeline/layer_schemes.h"

namespace roundtable {
namespace {

std::vector<Stage> decide_stages(const Config& config, const Plan& plan) {
  const std::int64_t blocks = plan.model.n_blocks;
  if (!config.tuning.use_quant_input) {
    // A block tuned on the float chain needs nothing of the blocks before it.
    std::vector<Stage> stages;
    for (std::int64_t first = 0; first < blocks; first += plan.joint_blocks) {
      stages.push_back({first, std::min(first + plan.joint_blocks, blocks)});
    }
    return stages;
  }
  if (config.parallel.stages > blocks) {
    throw bad_input("parallel.stages",
                    fmt::format("{} stages are more than the model's {} blocks", config.parallel.stages, blocks));
  }
  return cut_stages(blocks,
                    config.parallel.stages > 0 ? config.parallel.stages : std::min<std::int64_t>(plan.groups, blocks));
}

// Bytes of a block's linear layers as they are written.
std::int64_t written_bytes(const std::vector<LinearSpec>& linears, const BlockSchemes& schemes) {
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const std::int64_t n = linears[i].out * linears[i].in;
    if (!schemes[i]) {
      bytes += n * 2;
      continue;
    }
    const std::int64_t groups = schemes[i]->groups(linears[i].in) * linears[i].out;
    bytes += n * schemes[i]->bits / 8 + groups * 2 + groups * schemes[i]->bits / 8;
  }
  return bytes;
}

// What an optimizer keeps of each weight between steps, beside v; and the gradient of v, which it needs on its own.
std::int64_t optimizer_bytes(const TuningSection& tuning) {
  if (tuning.optimizer == "adamw") return 3 * 4;
  return tuning.momentum > 0 ? 2 * 4 : 0;
}

void forecast(const Config& config, Plan& plan) {
  const std::int64_t element = config.tuning.amp ? 2 : 4;
  const std::vector<LinearSpec> linears = block_linears(plan.model);
  for (const LinearSpec& linear : linears) plan.block_parameters += linear.out * linear.in;
  const std::int64_t samples = (config.calibration.n_samples + plan.shards - 1) / plan.shards;
  const std::int64_t state = config.calibration.seqlen * plan.model.hidden_size * element;
  const std::int64_t in_pass =
      std::min(micro_batch_of(config.tuning, plan.shards), (plan.batch + plan.shards - 1) / plan.shards);
  // Activations kept for the backward pass of one sample, in units of one token's elements.
  const std::int64_t a_token = 12 * plan.model.hidden_size + 5 * plan.model.intermediate_size +
                               6 * plan.model.n_heads * plan.model.head_dim;
  // Weights as read and as computed with, v, gradient arena, the best integers; then chains, target and one spare.
  const std::int64_t a_weight = 2 + element + 4 + 4 + 1 + optimizer_bytes(config.tuning);
  plan.bytes_a_rank = plan.joint_blocks * plan.block_parameters * a_weight + 4 * samples * state +
                      plan.joint_blocks * in_pass * config.calibration.seqlen * a_token * (element + 2);
  plan.boundary_bytes = static_cast<std::int64_t>(plan.stages.size()) * config.calibration.n_samples * state;
  plan.output_bytes = plan.model.vocab_size * plan.model.hidden_size * (plan.model.tie_word_embeddings ? 2 : 4);
  for (const BlockSchemes& schemes : plan.schemes) plan.output_bytes += written_bytes(linears, schemes);
  plan.reduced_bytes_a_step = plan.shards > 1 ? plan.joint_blocks * plan.block_parameters * 4 : 0;
}

bool any_asymmetric(const Plan& plan) {
  for (const BlockSchemes& schemes : plan.schemes) {
    for (const auto& scheme : schemes) {
      if (scheme && !scheme->symmetric) return true;
    }
  }
  return false;
}

// "8 bits, sym, groups of 32: 12 layers", where not all quantized layers are alike.
std::vector<std::string> mixture_lines(const Plan& plan) {
  std::map<std::string, std::int64_t> layers;
  for (const BlockSchemes& schemes : plan.schemes) {
    for (const auto& scheme : schemes) {
      if (scheme) ++layers[scheme_text(*scheme)];
    }
  }
  std::vector<std::string> lines;
  if (layers.size() > 1) {
    for (const auto& [text, count] : layers) lines.push_back(fmt::format("{}: {} layers", text, count));
  }
  return lines;
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
  if (!config.run.eval_tokens.empty()) load_tokens(config.run.eval_tokens, 0, 0, plan.model.vocab_size);
  if (calibration.seqlen > plan.model.max_position_embeddings) {
    plan.warnings.push_back(fmt::format("calibration.seqlen {} is beyond the model's max_position_embeddings {}",
                                        calibration.seqlen, plan.model.max_position_embeddings));
  }
}

// Every tensor of every block is there in the right shape, and none that we would drop unawares.
void check_tensors(const Config& config, Plan& plan) {
  const Checkpoint checkpoint(config.model.path);
  std::set<std::string> expected;
  const auto expect = [&](const std::string& name, const std::vector<std::int64_t>& shape) {
    expected.insert(name);
    const TensorInfo& info = checkpoint.info(name);
    if (info.shape == shape) return;
    throw bad_input(fmt::format("{}/{}: tensor '{}'", config.model.path, checkpoint.file_of(name), name),
                    fmt::format("has shape [{}] and config.json calls for [{}]", fmt::join(info.shape, ", "),
                                fmt::join(shape, ", ")));
  };
  for (std::int64_t block = 0; block < plan.model.n_blocks; ++block) {
    const std::string prefix = plan.model.block_name(block) + ".";
    for (const LinearSpec& linear : block_linears(plan.model)) {
      expect(prefix + linear.name + ".weight", {linear.out, linear.in});
      if (linear.bias) expect(prefix + linear.name + ".bias", {linear.out});
    }
    for (const ParameterSpec& norm : block_norms(plan.model)) expect(prefix + norm.name, norm.shape);
  }
  expect("model.embed_tokens.weight", {plan.model.vocab_size, plan.model.hidden_size});
  expect("model.norm.weight", {plan.model.hidden_size});
  if (!plan.model.tie_word_embeddings) expect("lm_head.weight", {plan.model.vocab_size, plan.model.hidden_size});
  for (const std::string& name : checkpoint.names()) {
    // Old Llama checkpoints carry a table that follows from config.json.
    if (expected.contains(name) || name.ends_with("rotary_emb.inv_freq") || name == "lm_head.weight") continue;
    throw bad_input(fmt::format("{}/{}: tensor '{}'", config.model.path, checkpoint.file_of(name), name),
                    fmt::format("is not part of a '{}' model", plan.model.model_type),
                    "check model_type, attention_bias and num_hidden_layers in config.json");
  }
}

}  // namespace

std::int64_t micro_batch_of(const TuningSection& tuning, int shards) {
  if (tuning.micro_batch > 0) return tuning.micro_batch;
  return std::max<std::int64_t>(1, tuning.batch_size / shards);
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
  // Rounding to nearest takes no steps: the batch need not be filled.
  if (config.tuning.iters == 0) plan.batch = std::min(plan.batch, config.calibration.n_samples);
  plan.shards = choose_shards(config.parallel.shards, world.ranks, world.ranks_a_node, plan.batch);
  plan.groups = world.ranks / plan.shards;
  plan.joint_blocks = std::min(config.tuning.n_blocks, plan.model.n_blocks);
  plan.stages = decide_stages(config, plan);
  LayerSchemes schemes = resolve_schemes(config.quantization, plan.model);
  plan.schemes = std::move(schemes.blocks);
  plan.head = schemes.head;
  plan.float_reasons = std::move(schemes.float_reasons);
  if (any_asymmetric(plan)) {
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
  if (config.tuning.optimizer == "adamw" && config.tuning.momentum > 0) {
    throw bad_input("tuning.momentum", "is signround's; adamw has its own", "leave it at 0");
  }
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
  const auto line = [&](const char* what, const std::string& value) {
    text += fmt::format("  {:<12} {}\n", what, value);
  };
  text += "plan\n";
  line("model", fmt::format("{} ({}), {} blocks of {:.1f} M weights", config.model.path, plan.model.model_type,
                            plan.model.n_blocks, static_cast<double>(plan.block_parameters) / 1e6));
  line("weights", fmt::format("{}, {}", scheme_text(scheme_of(config.quantization)), config.output.formats.front()));
  for (const std::string& layers : mixture_lines(plan)) line("mixed", layers);
  if (plan.head) line("lm_head", scheme_text(*plan.head) + ", rounded to nearest");
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
