// The checks.
#include "plan/checks.h"

#include <fmt/ranges.h>

#include <set>

#include "base/error.h"
#include "data/token_set.h"
#include "export/quantized_checkpoint.h"
#include "io/checkpoint.h"
#include "model/description/block_layout.h"
#include "model/load/tensor_source.h"

namespace roundtable {

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

void check_votes(const Config& config, int shards) {
  if (config.parallel.gradient_dtype != GradientDtype::kSign || shards <= 127) return;
  throw bad_input("parallel.gradient_dtype", fmt::format("sign holds the votes of 127 ranks, not of {}", shards),
                  "choose fewer parallel.shards, or bf16");
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

void check_tensors(const Config& config, const Plan& plan) {
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

void check_estimate(const Config& config, Plan& plan) {
  const std::string& estimate = config.calibration.estimate;
  if (estimate.empty()) return;
  const ModelConfig other = load_model_config(estimate);
  const ModelConfig& model = plan.model;
  if (other.model_type != model.model_type || other.n_blocks != model.n_blocks ||
      other.hidden_size != model.hidden_size || other.vocab_size != model.vocab_size) {
    throw bad_input("calibration.estimate", fmt::format("{} is another model than {}", estimate, config.model.path),
                    "give a quantized checkpoint of the same model");
  }
  open_tensor_source(estimate);  // a format that can be read
  if (plan.stages.size() == 1) {
    plan.warnings.push_back("calibration.estimate changes nothing: the only stage starts from the embeddings");
  }
}

void check_length(const ModelConfig& model, std::int64_t seqlen, const std::string& place) {
  if (model.names.positions.empty() || seqlen <= model.max_position_embeddings) return;
  throw bad_input(place, fmt::format("{} tokens are more than the {} positions that the model has learned", seqlen,
                                     model.max_position_embeddings),
                  "make the token set with a smaller --seqlen");
}

std::int64_t check_tokens(const Config& config, Plan& plan) {
  const auto& calibration = config.calibration;
  load_tokens(calibration.tokens, calibration.n_samples, calibration.seqlen, plan.model.vocab_size);
  check_length(plan.model, calibration.seqlen, "calibration.seqlen");
  if (calibration.seqlen > plan.model.max_position_embeddings) {
    plan.warnings.push_back(fmt::format("calibration.seqlen {} is beyond the model's max_position_embeddings {}",
                                        calibration.seqlen, plan.model.max_position_embeddings));
  }
  if (config.run.eval_tokens.empty()) return 0;
  const TokenRows held_out = load_tokens(config.run.eval_tokens, 0, 0, plan.model.vocab_size);
  check_length(plan.model, held_out.seqlen, config.run.eval_tokens);
  return held_out.rows * held_out.seqlen;
}

}  // namespace roundtable
