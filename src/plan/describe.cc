// The plan for people.
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "base/text.h"
#include "plan/layer_schemes.h"
#include "plan/plan.h"
#include "rundir/paths.h"

namespace roundtable {
namespace {

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

// "3.5 bits in the mean, of w2g64, w4g64, w8g128"
std::string words_of_budget(const Config& config) {
  std::vector<std::string> words;
  for (const SchemeOption& option : config.quantization.auto_scheme.options) words.push_back(option.word());
  return fmt::format("{} bits in the mean, of {}", config.quantization.auto_scheme.avg_bits, fmt::join(words, ", "));
}

// "w2g64 40 layers, w4g64 80 layers; 3.498 bits in the mean", or how that will be known.
std::string words_of_choice(const Plan& plan, const Config& config) {
  const AutoScheme& wanted = config.quantization.auto_scheme;
  if (plan.is_guess) {
    return fmt::format("not yet chosen: roundtable scheme, and the first phase of quantize, score every layer with each "
                       "option on {} samples; sizes here are a guess",
                       std::min(wanted.nsamples, config.calibration.n_samples));
  }
  const MixedSchemes figures = figures_of(*plan.mixed, config.quantization, plan.chosen);
  std::vector<std::string> counts;
  for (const auto& [word, layers] : figures.layers) counts.push_back(fmt::format("{} {} layers", word, layers));
  return fmt::format("{}; {:.3f} bits in the mean", fmt::join(counts, ", "), figures.mean_bits);
}

// In millions: "3.5", or "44.0 to 251.3" where blocks differ.
std::string weights_text(const Model& model) {
  std::int64_t least = count_block_parameters(model, 0), most = least;
  for (std::int64_t block = 1; block < model.n_blocks(); ++block) {
    least = std::min(least, count_block_parameters(model, block));
    most = std::max(most, count_block_parameters(model, block));
  }
  const auto text = [](std::int64_t weights) { return fmt::format("{:.1f}", static_cast<double>(weights) / 1e6); };
  return text(least) == text(most) ? text(least) : text(least) + " to " + text(most);
}

std::string listed(const std::vector<Forecast::Bytes>& items) {
  std::string text;
  for (const auto& item : items) {
    if (item.bytes > 0) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", item.name, human_bytes(item.bytes));
  }
  return text.empty() ? "nothing" : text;
}

std::string place_of_boundaries(const Config& config, const Plan& plan) {
  if (config.output.path.empty() && config.run.directory.empty() && config.calibration.cache.empty()) {
    return "boundaries in the run directory";  // of a forecast that names no output
  }
  return fmt::format("boundaries in {}{}", RunPaths(config, plan.tuned_in_place).boundary_root(config),
                     config.calibration.cache.empty() ? "" : ", where they stay for other runs");
}

// "4 of 8 per rank", or "4 to 8 of 8 to 16 per rank" where blocks differ.
std::string experts_text(const Plan& plan) {
  std::int64_t least = 0, most = 0;
  for (std::int64_t block = 0; block < plan.model.n_blocks(); ++block) {
    const std::int64_t experts = plan.model.table(block).experts;
    if (experts == 0) continue;
    least = least == 0 ? experts : std::min(least, experts);
    most = std::max(most, experts);
  }
  const auto range = [](std::int64_t low, std::int64_t high) {
    return low == high ? fmt::format("{}", low) : fmt::format("{} to {}", low, high);
  };
  return fmt::format("divided over the ranks of a group: {} of {} per rank",
                     range(least / plan.expert_parts, most / plan.expert_parts), range(least, most));
}

// The number of stages changes the result, so whoever changes the number of ranks must know what it follows.
std::string source_of_stages(const Config& config, const Plan& plan) {
  if (!config.tuning.use_quant_input || config.parallel.stages > 0) return "";
  return fmt::format(", which follows the number of groups; parallel.stages={} keeps it on other ranks",
                     plan.stages.size());
}

}  // namespace

std::string describe(const Plan& plan, const Config& config) {
  std::string text;
  const auto line = [&](const char* what, const std::string& value) {
    text += fmt::format("  {:<12} {}\n", what, value);
  };
  text += "plan\n";
  line("model", fmt::format("{} ({}), {} blocks of {} M weights", config.model.path, plan.model.type(),
                            plan.model.n_blocks(), weights_text(plan.model)));
  const std::string weights = plan.mixed ? words_of_budget(config) : scheme_text(plan.common);
  line("weights", fmt::format("{}, {}", weights, fmt::join(config.output.formats, ", ")));
  if (plan.mixed) line("auto_scheme", words_of_choice(plan, config));
  for (const std::string& layers : plan.is_guess ? std::vector<std::string>() : mixture_lines(plan)) {
    line("mixed", layers);
  }
  if (plan.head) line("lm_head", scheme_text(*plan.head) + ", rounded to nearest");
  line("ranks", fmt::format("{} = {} groups x {} shards, {} per node", plan.world.ranks, plan.groups, plan.shards,
                            plan.world.ranks_a_node));
  if (const WorldDevices& devices = plan.world.devices; !devices.names.empty()) {
    const std::string reason = devices.why_cpu.substr(0, devices.why_cpu.find(". "));  // the rest is advice
    line("devices", reason.empty() ? devices.names : fmt::format("{} ({})", devices.names, reason));
  }
  if (plan.expert_parts > 1) line("experts", experts_text(plan));
  line("stages", fmt::format("{} of up to {} blocks{}", plan.stages.size(), plan.stages.front().size(),
                             source_of_stages(config, plan)));
  line("steps", fmt::format("{} iterations per block, {} samples per step of {} tokens", config.tuning.iters,
                            plan.batch, config.calibration.seqlen));
  if (config.tuning.min_expert_tokens > 0 && plan.quantizes_experts()) {
    line("experts", fmt::format("at least {} tokens for the search of scales of each", config.tuning.min_expert_tokens));
  }
  const Forecast& f = plan.forecast;
  line("memory", fmt::format("about {} per rank: {}", human_bytes(f.memory_bytes()), listed(f.memory)));
  line("disk", listed(f.disk) + "; " + place_of_boundaries(config, plan));
  line("traffic", listed(f.traffic));
  for (const auto& phase : f.phases) {
    line("time", fmt::format("{} {}, bound by {}", phase.name, human_seconds(phase.seconds), phase.bound_by));
  }
  if (!f.phases.empty()) line("time", fmt::format("{} in all", human_seconds(f.seconds())));
  for (const std::string& reason : plan.float_reasons) line("16 bits", reason);
  for (const std::string& warning : plan.warnings) line("warning", warning);
  return text;
}

}  // namespace roundtable
