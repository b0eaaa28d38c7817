// All refusals of a plan.
#include "plan/checks.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/text.h"
#include "data/sha256.h"
#include "data/token_set.h"
#include "export/quantized_checkpoint.h"
#include "export/registry.h"
#include "io/checkpoint.h"
#include "io/file.h"
#include "io/json_file.h"
#include "model/load/tensor_source.h"
#include "plan/forecast.h"
#include "plan/layout.h"

namespace roundtable {

namespace {

void check_reproducible(const Config& config) {
  if (!config.run.reproducible) return;
  const std::int64_t shards = config.parallel.shards;
  if (shards > 0 && (shards & (shards - 1)) != 0) {
    throw bad_input("parallel.shards", fmt::format("{} is no power of two, which run.reproducible needs", shards));
  }
  if (config.tuning.sampler != SamplerKind::kStrata) {
    throw bad_input("tuning.sampler", "run.reproducible needs strata: only they fix which rank has a step's samples");
  }
  if (config.parallel.gradient_dtype != GradientDtype::kFp32) {
    throw bad_input("parallel.gradient_dtype", "run.reproducible sums gradients in fp32",
                    "leave it at fp32, or run.reproducible at false");
  }
}

void check_samples(const Config& config, const Plan& plan) {
  if (config.calibration.n_samples >= plan.batch) return;
  throw bad_input("calibration.n_samples",
                  fmt::format("{} samples cannot fill a batch of {} (tuning.batch_size * "
                              "tuning.gradient_accumulate_steps)",
                              config.calibration.n_samples, plan.batch),
                  "ask for more samples or a smaller batch");
}

void check_shards(const Config& config, const Plan& plan) {
  if (plan.world.ranks % plan.shards != 0) {
    throw bad_input("parallel.shards",
                    fmt::format("{} does not divide the {} ranks of this run", plan.shards, plan.world.ranks),
                    "start a multiple of it, or leave it at 0");
  }
  const std::int64_t strata = sharded_strata(config, plan.batch);
  if (strata % plan.shards != 0) {
    throw bad_input(
        "parallel.shards",
        fmt::format("{} does not divide the {} strata (tuning.batch_size * tuning.gradient_accumulate_steps)",
                    plan.shards, strata),
        "choose a divisor of it, or leave it at 0");
  }
}

// From 2 on.
std::vector<std::int64_t> divisors_of(std::int64_t number) {
  std::vector<std::int64_t> divisors;
  for (std::int64_t i = 2; i <= number; ++i) {
    if (number % i == 0) divisors.push_back(i);
  }
  return divisors;
}

// What to do where the shards do not divide the experts: numbers that divide the strata too, if there are any.
std::string fix_of_shards(std::int64_t experts, std::int64_t strata) {
  const std::string replicated = "set parallel.experts to replicated";
  const std::vector<std::int64_t> both = divisors_of(std::gcd(experts, strata));
  if (!both.empty()) return fmt::format("numbers that do: {}; or {}", fmt::join(both, ", "), replicated);
  const std::vector<std::int64_t> some = divisors_of(experts);
  if (some.empty()) return replicated;
  return fmt::format("numbers that do: {}, each with a tuning.batch_size that it divides; or {}", fmt::join(some, ", "),
                     replicated);
}

// A model without experts is no fault: warnings.h has it.
void check_experts(const Config& config, const Plan& plan) {
  const std::int64_t experts = experts_to_divide(plan.model);
  if (config.parallel.experts != Experts::kDivided || experts == 0) return;
  if (const std::string obstacle = obstacle_to_dividing(plan.model, plan.stacks_apart); !obstacle.empty()) {
    throw bad_input("parallel.experts", fmt::format("'divided' is not possible: {}", obstacle),
                    "leave it at auto, or set it to replicated");
  }
  if (experts % plan.shards == 0) return;
  throw bad_input("parallel.shards",
                  fmt::format("{} does not divide the {} experts of a block, which parallel.experts 'divided' needs",
                              plan.shards, experts),
                  fix_of_shards(experts, sharded_strata(config, plan.batch)));
}

// A vote (sign) is counted in a byte.
void check_votes(const Config& config, const Plan& plan) {
  if (config.parallel.gradient_dtype != GradientDtype::kSign || plan.shards <= 127) return;
  throw bad_input("parallel.gradient_dtype", fmt::format("sign holds the votes of 127 ranks, not of {}", plan.shards),
                  "choose fewer parallel.shards, or bf16");
}

// More tokens than there are can reach no expert.
void check_expert_tokens(const Config& config) {
  const std::int64_t least = config.tuning.min_expert_tokens;
  const std::int64_t all = config.calibration.n_samples * config.calibration.seqlen;
  if (least <= all) return;
  throw bad_input("tuning.min_expert_tokens",
                  fmt::format("{} is more than the {} tokens of calibration.n_samples * calibration.seqlen", least, all),
                  "lower it, or calibrate with more samples");
}

void check_stages(const Config& config, const Plan& plan) {
  if (!config.tuning.use_quant_input || config.parallel.stages <= plan.model.n_blocks()) return;
  throw bad_input("parallel.stages", fmt::format("{} stages are more than the model's {} blocks",
                                                 config.parallel.stages, plan.model.n_blocks()));
}

void check_memory(const Config& config, const Plan& plan) {
  if (config.cluster.nodes == 0) return;
  const auto capacity = static_cast<std::int64_t>(config.cluster.device_memory * 1e9);
  // If no layout fits, choose_layout() has taken the smallest.
  const Forecast forecast = make_forecast(config, plan.model, plan.schemes, plan.layout(), 0);
  const std::int64_t needed = forecast.memory_bytes(), of_block = forecast.block_bytes();
  if (needed <= capacity) return;
  const std::string problem = fmt::format("{} are too little: the smallest layout needs {} per rank",
                                          human_bytes(capacity), human_bytes(needed));
  if (of_block > capacity) {
    const bool more = plan.expert_parts == 1 && experts_to_divide(plan.model) > 0 &&
                      obstacle_to_dividing(plan.model, plan.stacks_apart).empty();
    throw bad_input("cluster.device_memory",
                    fmt::format("{}, {} of it for one block and its tuning", problem, human_bytes(of_block)),
                    more ? "set parallel.experts: divided, with parallel.shards that divide the experts; or take devices "
                           "with more memory"
                         : "take devices with more memory: more ranks and smaller batches do not change this part");
  }
  throw bad_input("cluster.device_memory", problem,
                  "lower tuning.micro_batch or calibration.n_samples, or use more ranks");
}

void check_optimizer(const Config& config) {
  if (config.tuning.optimizer != OptimizerKind::kAdamW || config.tuning.momentum == 0) return;
  throw bad_input("tuning.momentum", "belongs to signround; adamw has a momentum of its own", "leave it at 0");
}

void check_formats(const Config& config, const Plan& plan) {
  const CheckpointScheme checkpoint = checkpoint_scheme(config, plan);
  for (const CheckpointFormat* format : plan.formats) {
    refuse_obstacle("output.formats", *format, plan.model, checkpoint);
  }
}

std::string tensor_place(const Config& config, const std::string& file, const std::string& name) {
  return fmt::format("{}/{}: tensor '{}'", config.model.path, file, printable(name));
}

// Every tensor that is loaded or copied has a type and a shape that we handle, and every other one is known to be of no
// use.
void check_tensors(const Config& config, const Plan& plan) {
  const CheckpointSource source(config.model.path);
  const Checkpoint& checkpoint = source.checkpoint();
  std::set<std::string> expected;
  const auto expect = [&](const ParameterSpec& spec) {
    for (const StoredTensor& tensor : source.stored_tensors(spec)) expected.insert(tensor.name);
  };
  plan.model.for_each_parameter(expect);
  // A head that is tied, and that the file has all the same, is copied.
  const std::string& head = plan.model.tied_head();
  if (!head.empty() && checkpoint.contains(head)) expected.insert(head);
  for (const std::string& name : checkpoint.names()) {
    if (expected.contains(name) || plan.model.is_carried_over(name) || is_derived_table(name) ||
        is_activation_scale(name)) {
      continue;
    }
    throw bad_input(tensor_place(config, checkpoint.file_of(name), name),
                    fmt::format("is not part of a '{}' model", plan.model.type()),
                    "check model_type, the biases and the number of layers in config.json");
  }
}

void check_estimate(const Config& config, const Plan& plan) {
  const std::string& estimate = config.calibration.estimate;
  if (estimate.empty()) return;
  const nlohmann::json other = load_json(estimate + "/config.json");
  const bool alike = [&] {
    for (const char* key : {"model_type", "num_hidden_layers", "n_layer", "hidden_size", "n_embd", "vocab_size"}) {
      if (other.value(key, nlohmann::json()) != plan.model.config().value(key, nlohmann::json())) return false;
    }
    return true;
  }();
  if (!alike) {
    throw bad_input("calibration.estimate", fmt::format("{} is another model than {}", estimate, config.model.path),
                    "give a quantized checkpoint of the same model");
  }
  open_tensor_source(estimate);  // a format that can be read
}

void check_directories(const Config& config, const Plan& plan) {
  for (const CheckpointFormat* format : plan.formats) {
    if (const auto reason = format->directory_obstacle(config.model.path)) {
      throw bad_input("output.formats", fmt::format("{} cannot hold this: {}", format->name(), *reason),
                      "leave this format out");
    }
  }
}

// Returns the number of held-out tokens.
std::int64_t check_tokens(const Config& config, const Plan& plan) {
  const auto& calibration = config.calibration;
  load_tokens(calibration.tokens, calibration.n_samples, calibration.seqlen, plan.model.vocab_size());
  if (config.run.eval_tokens.empty()) return 0;
  const TokenRows held_out = load_tokens(config.run.eval_tokens, 0, 0, plan.model.vocab_size());
  return held_out.rows * held_out.seqlen;
}

}  // namespace

std::string tokenizer_digest(const std::string& directory) {
  constexpr std::uint64_t kMaxTokenizer = 1 << 30;
  const std::string path = directory + "/tokenizer.json";
  std::error_code ignored;
  return std::filesystem::exists(path, ignored) ? sha256(read_text_file(path, kMaxTokenizer)) : "";
}

std::string check_tokenizer(const Config& config, const std::string& tokens) {
  const std::string theirs = tokenizer_of_tokens(tokens);
  if (theirs.empty()) return "";
  const std::string path = config.model.path + "/tokenizer.json";
  const std::string ours = tokenizer_digest(config.model.path);
  if (ours.empty()) {
    return fmt::format("{}: whether the model's own tokenizer made it is not known: there is no {}", tokens, path);
  }
  if (ours == theirs) return "";
  const std::string problem = fmt::format("was made with another tokenizer than {}", path);
  if (!config.calibration.check_tokenizer) return fmt::format("{}: {}", tokens, problem);
  throw bad_input(tokens, problem,
                  "make it with this model's tokenizer (launch/prepare_calibration.py --model), or, if both give the "
                  "same ids, set calibration.check_tokenizer=false");
}

void check_settings(const Config& config, const Plan& plan) {
  check_reproducible(config);
  check_formats(config, plan);
  check_shards(config, plan);
  check_experts(config, plan);
  check_memory(config, plan);
  check_votes(config, plan);
  check_expert_tokens(config);
  check_stages(config, plan);
  check_optimizer(config);
  check_samples(config, plan);
}

// A config that says how the weights are quantized. Readers believe it: transformers 5.23, quantizers/auto.py
// (get_hf_quantizer); vLLM, model_loader/weight_utils.py (get_quant_config), which knows the second key as well.
//
// A model that its publisher has quantized is a source like any other, if we read its method (model/load/published).
void check_not_quantized(const Config& config) {
  const JsonObject json = JsonObject::load(config.model.path + "/config.json");
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (!json.has(key)) continue;
    const Checkpoint checkpoint(config.model.path);
    const auto& names = checkpoint.names();
    const auto packed = std::find_if(names.begin(), names.end(), [&](const std::string& name) {
      return !is_weight_type(checkpoint.info(name).type) && !is_derived_table(name);
    });
    const nlohmann::json& method = json.json().at(key);
    const std::string named =
        method.is_object() && method.contains("quant_method") && method["quant_method"].is_string()
            ? printable(method["quant_method"].get<std::string>())
            : "no quant_method";
    if (packed != names.end()) {
      if (published_method(config.model.path)) continue;
      json.fail(key,
                fmt::format("the model is quantized already ({}; tensor '{}' is {})", named, printable(*packed),
                            safetensors_dtype(checkpoint.info(*packed).type)),
                "quantize from the float model, or from one that is published as " + readable_methods());
    }
    json.fail(key, fmt::format("says that the weights are quantized ({}), and the weights are floats", named),
              "remove the key from config.json if it is out of date");
  }
}

void check_strays(const Config& config) {
  const Checkpoint checkpoint(config.model.path);
  // transformers 5.23 would load it (modeling_utils.py, _load_pretrained_model takes all tensors of all files).
  for (const Checkpoint::Stray& stray : checkpoint.strays()) {
    if (checkpoint.contains(stray.name) || is_derived_table(stray.name)) continue;
    throw bad_input(tensor_place(config, stray.file, stray.name), "is in the file, and the index does not name it",
                    "fetch the model again, or correct model.safetensors.index.json");
  }
}

std::int64_t check_files(const Config& config, const Plan& plan) {
  check_not_quantized(config);
  check_tensors(config, plan);
  check_strays(config);
  check_estimate(config, plan);
  check_directories(config, plan);
  return check_tokens(config, plan);
}

}  // namespace roundtable
