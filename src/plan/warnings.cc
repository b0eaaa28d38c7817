// The warnings, one function per subject.
#include "plan/warnings.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/text.h"
#include "export/checkpoint_files.h"
#include "export/expert_layers.h"
#include "export/registry.h"
#include "io/checkpoint.h"
#include "plan/auto_scheme/fused_places.h"
#include "plan/layer_schemes.h"
#include "plan/rules/reasons.h"
#include "plan/layout.h"

namespace roundtable {
namespace {

bool any_asymmetric(const Plan& plan) {
  for (const BlockSchemes& schemes : plan.schemes) {
    for (const auto& scheme : schemes) {
      if (scheme && !scheme->symmetric) return true;
    }
  }
  return false;
}

void warn_of_second_copy(const Plan& plan, std::vector<std::string>& warnings) {
  if (plan.tuned_in_place) return;
  const bool packed = plan.tuned == plan.formats.front();
  warnings.push_back(fmt::format(
      "{}: the tuned blocks are written to the run directory as {}, and the output is made from them: both need disk "
      "space",
      packed ? "a block is larger than output.max_shard_size"
             : fmt::format("a run cannot resume from {}, which holds no integers", plan.formats.front()->name()),
      plan.tuned->name()));
}

// Whether engines cut the layer along its inputs, one part per device: it sums over what other layers of an attention or
// an MLP give. The names are those of transformers' models (vLLM builds a RowParallelLinear for each).
bool is_cut_along_inputs(const std::string& name) {
  const std::string last = name.substr(name.rfind('.') + 1);
  for (const std::string_view row : {"o_proj", "down_proj", "out_proj", "wo", "w2", "c_proj", "dense", "fc2",
                                     "dense_4h_to_h", "o_b_proj", "output_linear"}) {
    if (last == row) return true;
  }
  return false;
}

void warn_of_tensor_parallel(const Plan& plan, std::vector<std::string>& warnings) {
  std::map<std::string, std::set<int>> sizes;  // "mlp.down_proj (1536 inputs, groups of 128)" -> sizes
  for (std::int64_t block = 0; block < plan.model.n_blocks(); ++block) {
    const BlockSchemes& schemes = plan.schemes[static_cast<std::size_t>(block)];
    for (std::size_t i = 0; i < schemes.size(); ++i) {
      const LinearSpec& linear = plan.model.linears(block)[i];
      if (!schemes[i] || schemes[i]->group_size < 0 || linear.expert > 0) continue;
      if (!is_cut_along_inputs(linear.name)) continue;
      for (const int size : {2, 4, 8}) {
        if (linear.in % size != 0 || linear.in / size % schemes[i]->group_size == 0) continue;
        sizes[fmt::format("{} ({} inputs, groups of {})", linear.name, linear.in, schemes[i]->group_size)].insert(size);
      }
    }
  }
  for (const auto& [layer, of_layer] : sizes) {
    warnings.push_back(
        fmt::format("tensor parallelism over {} devices would cut a group of {}", fmt::join(of_layer, " or "), layer));
  }
}

void warn_of_readers(const Plan& plan, std::vector<std::string>& warnings) {
  if (!any_asymmetric(plan)) return;
  const auto wanted = [&](const CheckpointFormat& format) {
    return std::find(plan.formats.begin(), plan.formats.end(), &format) != plan.formats.end();
  };
  if (wanted(auto_gptq_format())) {  // tests/peer/gptqmodel_test.py shows it
    warnings.push_back(
        "auto_gptq: GPTQModel 7.7 loads asym only if it was the quantizer itself; auto-round's reader loads it");
  }
  if (plan.formats.front() == &auto_round_auto_gptq_format()) {
    // auto-round 0.16.1, inference/backend.py: its torch_zp backend takes sym alone.
    warnings.push_back("asym in auto_round:auto_gptq is read on GPUs; auto-round 0.16.1 has no CPU backend for it");
  }
}

// See src/export/expert_layers.cc for the loaders.
void warn_of_experts(const Plan& plan, std::vector<std::string>& warnings) {
  std::string by_turns, unknown;
  for (std::int64_t block = 0; block < plan.model.n_blocks(); ++block) {
    const std::vector<LinearSpec>& linears = plan.model.linears(block);
    for (std::size_t i = 0; i < linears.size(); ++i) {
      if (!plan.schemes[static_cast<std::size_t>(block)][i] || !linears[i].stack) continue;
      if (linears[i].stack->by_turns) by_turns = linears[i].stack->name;
      if (!has_known_parts(linears[i])) unknown = linears[i].stack->name;
    }
  }
  std::vector<const CheckpointFormat*> apart;
  for (const CheckpointFormat* format : plan.formats) {
    if (const auto* safetensors = as_safetensors(*format); safetensors && !safetensors->keeps_stacks()) {
      apart.push_back(format);
    }
  }
  if (apart.empty()) return;
  if (!by_turns.empty()) {
    warnings.push_back(fmt::format(
        "{}: only transformers 5 with auto-round reads the experts of {} ({}) when they are quantized; vLLM and SGLang "
        "do not load them: keep them in 16 bits (quantization.ignore_layers), or choose qdq",
        names_of(apart), plan.model.type(), by_turns));
  }
  if (!unknown.empty()) {
    warnings.push_back(
        fmt::format("{}: it is not known that any engine reads the experts of {} ({}) when they are quantized",
                    names_of(apart), plan.model.type(), unknown));
  }
}

void warn_of_head(const Config& config, const Plan& plan, std::vector<std::string>& warnings) {
  if (!plan.model.stored_head()) return;
  warnings.push_back(
      fmt::format("{}/config.json: tie_word_embeddings is true, but the checkpoint has a {}.weight that differs from "
                  "the embedding: it is used, as transformers does, and the output says tie_word_embeddings: false",
                  config.model.path, plan.model.head_layer()));
}

// "q_proj, k_proj (4 bits, sym, groups of 128), v_proj (16 bits)". Of experts, which are many, the first of each
// scheme.
std::string parts_text(const FusedLayer& layer, const std::vector<std::string>& names) {
  std::vector<std::string> texts;
  std::set<std::size_t> told;
  for (std::size_t first = 0; first < names.size(); ++first) {
    if (told.contains(first)) continue;
    std::vector<std::string> alike;
    for (std::size_t i = first; i < names.size(); ++i) {
      if (!FusedLayer::same(layer.parts[i], layer.parts[first])) continue;
      told.insert(i);
      alike.push_back(names[i]);
    }
    const std::string shown = layer.parts_per_expert > 0 && alike.size() > 2
                                  ? fmt::format("{} and {} more", alike.front(), alike.size() - 1)
                                  : fmt::format("{}", fmt::join(alike, ", "));
    texts.push_back(fmt::format("{} ({})", shown, layer.parts[first] ? scheme_text(*layer.parts[first]) : "16 bits"));
  }
  return fmt::format("{}", fmt::join(texts, ", "));
}

// What engines do with a layer in the formats of the run: "refuse auto_round and misread auto_gptq"; or nothing.
std::string reading_text(const FusedLayer& layer, const std::vector<const CheckpointFormat*>& formats) {
  std::vector<std::string> texts;
  for (const auto& [reading, verb] :
       {std::pair{FusedReading::kRefused, "refuse"}, std::pair{FusedReading::kMisread, "misread"}}) {
    std::vector<const CheckpointFormat*> read;
    for (const CheckpointFormat* format : formats) {
      if (format->fused_reading(layer) == reading) read.push_back(format);
    }
    if (!read.empty()) texts.push_back(fmt::format("{} {}", verb, names_of(read)));
  }
  return fmt::format("{}", fmt::join(texts, " and "));
}

void warn_of_fused_layers(const Config& config, const Plan& plan, std::vector<std::string>& warnings) {
  std::map<std::string, std::vector<std::int64_t>> blocks;  // what is said of them
  for (std::int64_t block = 0; block < plan.model.n_blocks(); ++block) {
    const std::vector<LinearSpec>& linears = plan.model.linears(block);
    const BlockSchemes& schemes = plan.schemes[static_cast<std::size_t>(block)];
    for (const std::vector<std::size_t>& places : fused_places(linears)) {
      FusedLayer layer{{}, plan.common};
      if (linears[places.front()].expert >= 0) {
        layer.parts_per_expert = static_cast<std::size_t>(std::count_if(
            places.begin(), places.end(), [&](std::size_t i) { return linears[i].expert == linears[places.front()].expert; }));
      }
      std::vector<std::string> names;
      for (const std::size_t i : places) {
        names.push_back(linears[i].name);
        layer.parts.push_back(schemes[i]);
      }
      const std::string reading = reading_text(layer, plan.formats);
      if (reading.empty()) continue;
      const char* fix = layer.alike() ? "without settings of their own they are read right" : "give them one scheme";
      blocks[fmt::format("{} are one layer in vLLM and SGLang, which {} here; {}", parts_text(layer, names), reading,
                         fix)]
          .push_back(block);
    }
  }
  for (const auto& [text, of_text] : blocks) {
    warnings.push_back(fmt::format("{}: {}", blocks_text(of_text, plan.model.n_blocks()), text));
  }
}

void warn_of_kept(const Plan& plan, std::vector<std::string>& warnings) {
  if (plan.by_rule.empty()) return;
  warnings.push_back(fmt::format(
      "quantization.weight_config quantizes {}: engines keep such layers in 16 bits, so check that yours reads them "
      "quantized (KEPT in launch/graph_export/roles.py names the engines)",
      fmt::join(plan.by_rule, ", ")));
}

// From stages of so many blocks on, no loss is seen (src/phases/README.md, "Groups, shards and stages").
constexpr std::int64_t kCleanStage = 8;

// Where the ranks of a node do not divide the samples of a step, they cannot form one group.
std::string way_to_fewer_groups(const Plan& plan) {
  const int node = plan.world.ranks_a_node;
  if (plan.shards == node || plan.batch % node == 0) return "";
  return fmt::format(", or start a number of ranks per node that divides the {} samples of a step, which {} does not",
                     plan.batch, node);
}

void warn_of_stages(const Config& config, const Plan& plan, std::vector<std::string>& warnings) {
  if (std::ssize(plan.stages) < plan.groups) {
    warnings.push_back(
        fmt::format("{} groups for {} stages: some ranks will have no work", plan.groups, plan.stages.size()));
  }
  if (config.run.reproducible && config.parallel.stages == 0 && config.tuning.use_quant_input) {
    warnings.push_back(
        fmt::format("run.reproducible: the number of stages ({}) follows the number of groups; set "
                    "parallel.stages to keep the bytes on other numbers of groups",
                    plan.stages.size()));
  }
  if (config.tuning.use_quant_input && config.parallel.stages == 0 && plan.stages.size() > 1 &&
      plan.stages.back().size() < kCleanStage) {
    warnings.push_back(fmt::format(
        "the number of stages ({}) follows the number of groups, and stages of fewer than {} blocks cost quality; set "
        "parallel.stages=1 for the quality of one group{}",
        plan.stages.size(), kCleanStage, way_to_fewer_groups(plan)));
  }
  if (!config.calibration.estimate.empty() && plan.stages.size() == 1) {
    warnings.push_back("calibration.estimate changes nothing: the only stage starts from the embeddings");
  }
}

void warn_of_division(const Config& config, const Plan& plan, std::vector<std::string>& warnings) {
  if (config.parallel.experts != Experts::kDivided || plan.expert_parts > 1) return;
  const bool experts = experts_to_divide(plan.model) > 0;
  warnings.push_back(fmt::format("parallel.experts: 'divided' changes nothing: {}",
                                 experts ? "a group is one rank" : "the model has no experts"));
}

void warn_of_few_tokens(const Config& config, const Plan& plan, std::vector<std::string>& warnings) {
  if (config.tuning.min_expert_tokens == 0) return;
  if (!plan.quantizes_experts()) {
    warnings.push_back(fmt::format("tuning.min_expert_tokens changes nothing: {}",
                                   experts_to_divide(plan.model) > 0 ? "no expert is quantized" : "the model has no experts"));
  } else if (config.tuning.init_scale != InitScale::kSearch) {
    warnings.push_back(fmt::format(
        "tuning.min_expert_tokens changes nothing but the report: tuning.init_scale '{}' does not search scales",
        word_of(config.tuning.init_scale)));
  }
}

void warn_of_length(const Config& config, const Plan& plan, std::vector<std::string>& warnings) {
  const std::int64_t most = plan.model.graphs().max_positions;
  if (most == 0 || config.calibration.seqlen <= most) return;
  warnings.push_back(fmt::format("calibration.seqlen {} is larger than the model's max_position_embeddings {}",
                                 config.calibration.seqlen, most));
}

}  // namespace

std::vector<std::string> warnings_of(const Config& config, const Plan& plan) {
  std::vector<std::string> warnings;
  warn_of_second_copy(plan, warnings);
  warn_of_tensor_parallel(plan, warnings);
  warn_of_readers(plan, warnings);
  warn_of_experts(plan, warnings);
  warn_of_head(config, plan, warnings);
  warn_of_fused_layers(config, plan, warnings);
  warn_of_kept(plan, warnings);
  warn_of_stages(config, plan, warnings);
  warn_of_division(config, plan, warnings);
  warn_of_few_tokens(config, plan, warnings);
  warn_of_length(config, plan, warnings);
  return warnings;
}

std::vector<std::string> warnings_of_model(const Config& config) {
  std::vector<std::string> warnings;
  for (const std::string& file : quantization_files(config.model.path)) {
    warnings.push_back(
        fmt::format("{} says how weights are quantized, and the model's weights are floats: it is not copied", file));
  }
  const Checkpoint checkpoint(config.model.path);
  for (const Checkpoint::Stray& stray : checkpoint.strays()) {
    if (!checkpoint.contains(stray.name)) continue;
    warnings.push_back(fmt::format("tensor '{}' is in {} too: the index decides for the one in {}",
                                   printable(stray.name), stray.file, checkpoint.file_of(stray.name)));
  }
  return warnings;
}

}  // namespace roundtable
