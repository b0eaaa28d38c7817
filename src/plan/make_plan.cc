// Planning in four steps: decide, check, warn, forecast.
#include <algorithm>
#include <numeric>

#include "export/checkpoint_files.h"
#include "export/expert_layers.h"
#include "export/registry.h"
#include "io/checkpoint.h"
#include "graph/stored_head.h"
#include "model/load/tensor_source.h"
#include "plan/checks.h"
#include "plan/layer_schemes.h"
#include "plan/layout.h"
#include "plan/plan.h"
#include "plan/warnings.h"

namespace roundtable {
namespace {

// What the groups write while they tune: the first output format, or where that holds no integers (a restart needs
// them), the home of such weights.
const PackedFormat& tuned_format(const std::vector<const CheckpointFormat*>& formats, WeightType type) {
  const PackedFormat* first = as_packed(*formats.front());
  return first != nullptr ? *first : home_of(type);
}

std::vector<Stage> decide_stages(const Config& config, const Plan& plan) {
  const std::int64_t blocks = plan.model.n_blocks();
  if (config.tuning.use_quant_input) return cut_stages(blocks, count_stages(config, blocks, plan.groups));
  // A block tuned on the float chain needs nothing of the blocks before it.
  std::vector<Stage> stages;
  for (std::int64_t first = 0; first < blocks; first += plan.joint_blocks) {
    stages.push_back({first, std::min(first + plan.joint_blocks, blocks)});
  }
  return stages;
}

// Ranks per group; by the cost model if the cluster is described. A run whose experts an earlier start has divided keeps
// to its parts where that is possible, because its files are named by them.
int decide_shards(const Config& config, const Plan& plan) {
  const int parts = plan.world.parts_on_record;
  if (config.parallel.shards == 0 && config.parallel.experts != Experts::kReplicated && parts > 1 &&
      plan.world.ranks % parts == 0 && sharded_strata(config, plan.batch) % parts == 0) {
    return parts;
  }
  if (config.cluster.nodes > 0) return choose_layout(config, plan.model, plan.schemes, plan.stacks_apart, plan.world).shards;
  const std::int64_t experts = config.parallel.experts == Experts::kDivided ? experts_to_divide(plan.model) : 0;
  return choose_shards(config.parallel.shards, plan.world,
                       std::gcd(sharded_strata(config, plan.batch), experts));
}

// Bytes of an element of the model's own weights, by config.json.
std::int64_t float_bytes(const Model& model) {
  for (const nlohmann::json* part : {&model.config(), &model.text_config()}) {
    for (const char* key : {"dtype", "torch_dtype"}) {
      if (const auto found = part->find(key); found != part->end() && found->is_string()) {
        return *found == "float32" ? 4 : 2;
      }
    }
  }
  return 4;
}

std::uint64_t bytes_of(const ParameterSpec& spec, std::int64_t element) {
  return static_cast<std::uint64_t>(spec.elements() * element);
}

// What a weight takes in a format, quantized or not.
std::uint64_t weight_bytes(const CheckpointFormat& format, const LinearSpec& linear,
                           const std::optional<QuantScheme>& scheme, std::int64_t element) {
  if (!scheme) return bytes_of(linear.weight(), element);
  return format.layer_bytes(linear, *scheme, element == 4 ? torch::kFloat32 : torch::kBFloat16);
}

// What each file of the blocks takes in a format, in their order.
std::vector<std::uint64_t> bytes_of_block_files(const Plan& plan, const CheckpointFormat& format,
                                                std::int64_t element) {
  std::vector<std::uint64_t> files;
  for (std::int64_t block = 0; block < plan.model.n_blocks(); ++block) {
    const KindTable& table = plan.model.table(block);
    const BlockSchemes& schemes = plan.schemes[static_cast<std::size_t>(block)];
    const int parts = plan.files_of_block(block);
    const std::size_t first = files.size();
    files.resize(first + static_cast<std::size_t>(parts));
    for (std::size_t i = 0; i < schemes.size(); ++i) {
      const LinearSpec& linear = table.linears[i];
      const std::int64_t part = linear.expert < 0 ? 0 : linear.expert * parts / table.experts;
      files[first + static_cast<std::size_t>(part)] += weight_bytes(format, linear, schemes[i], element);
    }
    for (const ParameterSpec& other : table.others) files[first] += bytes_of(other, element);
  }
  return files;
}

// What a whole checkpoint takes.
std::int64_t checkpoint_bytes(const Plan& plan, const CheckpointFormat& format, std::int64_t element) {
  const std::vector<std::uint64_t> blocks = bytes_of_block_files(plan, format, element);
  std::uint64_t sum = std::accumulate(blocks.begin(), blocks.end(), std::uint64_t{0});
  for (const ParameterSpec& spec : plan.model.outside()) {
    sum += plan.head && spec.name == plan.model.head()->weight().name
               ? weight_bytes(format, *plan.model.head(), plan.head, element)
               : bytes_of(spec, element);
  }
  return static_cast<std::int64_t>(sum);
}

// The tensors of the checkpoint that the model's tables name.
std::set<std::string> names_in_tables(const Model& model, const CheckpointSource& source) {
  std::set<std::string> names = {model.tied_head()};
  model.for_each_parameter([&](const ParameterSpec& spec) {
    for (const StoredTensor& stored : source.stored_tensors(spec)) names.insert(stored.name);
  });
  return names;
}

// What the checkpoint holds of other parts of the model: it is copied. Without weights nothing is known of it.
void add_carried_over(const Config& config, Plan& plan, std::vector<ParameterSpec>& outside,
                      std::vector<std::uint64_t>& sizes) {
  if (!has_checkpoint(config.model.path)) return;
  const CheckpointSource source(config.model.path);
  const Checkpoint& checkpoint = source.checkpoint();
  std::vector<std::string> others;  // as a rule none: then no header is read
  for (const std::string& name : checkpoint.names()) {
    if (plan.model.is_carried_over(name) && !is_derived_table(name)) others.push_back(name);
  }
  if (others.empty()) return;
  const std::set<std::string> known = names_in_tables(plan.model, source);
  for (const std::string& name : others) {
    if (known.contains(name)) continue;
    const TensorInfo& info = checkpoint.info(name);
    plan.carried_over.push_back({name, info.shape});
    outside.push_back(plan.carried_over.back());
    sizes.push_back(info.bytes);
  }
}

// Which files there will be. Groups write the files of each block while they tune it. If one would be too large, or a
// run cannot resume from the first output format, the output is made from what the groups wrote, as convert does it.
void decide_files(const Config& config, Plan& plan) {
  const std::int64_t limit = config.output.max_shard_size.bytes();
  const std::int64_t element = float_bytes(plan.model);
  const std::vector<std::uint64_t> blocks = bytes_of_block_files(plan, *plan.tuned, element);
  const bool fits = *std::max_element(blocks.begin(), blocks.end()) <= static_cast<std::uint64_t>(limit);
  plan.tuned_in_place = fits && plan.tuned == plan.formats.front();
  std::vector<ParameterSpec> outside = plan.model.outside();
  std::vector<std::uint64_t> sizes;
  for (const ParameterSpec& spec : outside) sizes.push_back(bytes_of(spec, element));
  add_carried_over(config, plan, outside, sizes);
  for (const std::vector<std::size_t>& file : cut_by_size(sizes, limit)) {
    plan.outside_files.emplace_back();
    for (const std::size_t i : file) plan.outside_files.back().push_back(outside[i]);
  }
}

// What auto_scheme has chosen, or a guess. Most weights have the scheme that the checkpoint's config then names first.
void decide_mixed_bits(const Config& config, const SchemeChoice& choice, LayerSchemes& schemes, Plan& plan) {
  const QuantizationSection& section = config.quantization;
  const MixedBits mixed = mixed_bits_of(section, schemes, plan.formats);
  plan.is_guess = choice.empty();
  plan.chosen = plan.is_guess ? guess_options(mixed, section, schemes.model)
                              : from_words(mixed, section, schemes.model, choice);
  apply_choice(mixed, section, plan.formats, plan.chosen, schemes);
  if (const auto common = most_frequent(mixed, section, schemes.model, plan.chosen)) {
    plan.common = *scheme_of_option(section, section.auto_scheme.options[*common], plan.formats);
  }
  plan.mixed = mixed;
}

// Everything that the config, config.json and the ranks decide. Throws Error (kBadInput) only for what cannot be
// decided: an unknown model or format, and rules that contradict the model.
Plan decide(const Config& config, const Models& models, const World& world, const SchemeChoice& choice) {
  Plan plan;
  plan.model = with_head_of(models.calibration, config.model.path);
  plan.eval_model = plan.model.stored_head() ? models.evaluation.with_stored_head() : models.evaluation;
  plan.world = world;
  plan.batch = config.tuning.batch_size * config.tuning.gradient_accumulate_steps;
  // Rounding to nearest takes no steps: the batch need not be filled.
  if (config.tuning.iters == 0) plan.batch = std::min(plan.batch, config.calibration.n_samples);
  for (const std::string& name : config.output.formats) plan.formats.push_back(&format_named(name, "output.formats"));
  plan.tuned = &tuned_format(plan.formats, scheme_of(config.quantization, plan.formats).type);
  LayerSchemes schemes = resolve_schemes(config.quantization, plan.model, plan.formats);
  plan.common = scheme_of(config.quantization, plan.formats);
  if (config.quantization.auto_scheme.is_on()) decide_mixed_bits(config, choice, schemes, plan);
  plan.model = schemes.model;
  plan.schemes = std::move(schemes.blocks);
  plan.head = schemes.head;
  plan.by_rule = std::move(schemes.by_rule);
  plan.float_reasons = std::move(schemes.float_reasons);
  plan.stacks_apart = takes_stacks_apart(checkpoint_scheme(config, plan));
  plan.shards = decide_shards(config, plan);
  plan.groups = world.ranks / plan.shards;
  plan.expert_parts = choose_expert_parts(config, plan.model, plan.shards, plan.stacks_apart, world);
  plan.joint_blocks = std::min(config.tuning.n_blocks, plan.model.n_blocks());
  plan.stages = decide_stages(config, plan);
  return plan;
}

Forecast forecast_of(const Config& config, const Plan& plan, std::int64_t held_out_tokens) {
  Forecast forecast = make_forecast(config, plan.model, plan.schemes, plan.layout(), held_out_tokens);
  const std::int64_t element = float_bytes(plan.model);
  const auto add = [&](const std::string& name, const CheckpointFormat& format) {
    forecast.disk.push_back({name, checkpoint_bytes(plan, format, element)});
  };
  if (!plan.tuned_in_place) add("tuned blocks", *plan.tuned);
  for (const CheckpointFormat* format : plan.formats) {
    add(format == plan.formats.front() ? "checkpoint" : std::string(format->name()), *format);
  }
  return forecast;
}

}  // namespace

bool Plan::quantizes_experts() const {
  for (std::int64_t block = 0; block < model.n_blocks(); ++block) {
    const std::vector<LinearSpec>& linears = model.linears(block);
    for (std::size_t i = 0; i < linears.size(); ++i) {
      if (linears[i].expert >= 0 && schemes[static_cast<std::size_t>(block)][i]) return true;
    }
  }
  return false;
}

std::int64_t Plan::files() const {
  auto count = static_cast<std::int64_t>(outside_files.size());
  for (std::int64_t block = 0; block < model.n_blocks(); ++block) count += files_of_block(block);
  return count;
}

std::string Plan::block_file(std::int64_t block, int part) const {
  std::int64_t index = part;
  for (std::int64_t before = 0; before < block; ++before) index += files_of_block(before);
  return shard_name(index, files());
}

std::string Plan::outside_file(std::size_t index) const {
  return shard_name(files() - static_cast<std::int64_t>(outside_files.size() - index), files());
}

std::set<std::string> Plan::weight_files() const {
  std::set<std::string> names = {kIndexFile};
  for (std::int64_t i = 0; i < files(); ++i) names.insert(shard_name(i, files()));
  return names;
}

CheckpointScheme checkpoint_scheme(const Config& config, const Plan& plan) {
  const auto scheme_at = [&](const LinearSpec&, std::int64_t block, std::size_t place) {
    return block < 0 ? plan.head : plan.schemes[static_cast<std::size_t>(block)][place];
  };
  CheckpointScheme checkpoint{plan.common, config.tuning.iters,
                              checkpoint_layers(plan.model, scheme_at)};
  for (const ParameterSpec& spec : plan.carried_over) checkpoint.carried_over.push_back(spec.name);
  return checkpoint;
}

ScaleCheck scale_check(const Config& config, const Plan& plan) {
  std::vector<const CheckpointFormat*> formats = plan.formats;
  formats.push_back(plan.tuned);
  return {checkpoint_scheme(config, plan), std::move(formats)};
}

Plan lay_out(const Config& config, const Models& models, const World& world, const SchemeChoice& choice) {
  Plan plan = decide(config, models, world, choice);
  check_settings(config, plan);
  decide_files(config, plan);  // asks the formats for sizes, which they have only for what they can hold
  plan.warnings = warnings_of(config, plan);
  plan.forecast = forecast_of(config, plan, 0);
  return plan;
}

Plan make_plan(const Config& config, const Models& models, const World& world, const SchemeChoice& choice) {
  Plan plan = lay_out(config, models, world, choice);
  const std::int64_t held_out_tokens = check_files(config, plan);
  for (std::string& warning : warnings_of_model(config)) plan.warnings.push_back(std::move(warning));
  for (const std::string& tokens : {config.calibration.tokens, config.run.eval_tokens}) {
    if (tokens.empty()) continue;
    if (const std::string warning = check_tokenizer(config, tokens); !warning.empty()) plan.warnings.push_back(warning);
  }
  if (held_out_tokens > 0) plan.forecast = forecast_of(config, plan, held_out_tokens);
  return plan;
}

}  // namespace roundtable
