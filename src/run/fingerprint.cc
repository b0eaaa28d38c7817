// Fingerprints of a run's inputs.
#include "run/fingerprint.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <vector>

#include "base/hash.h"
#include "io/checkpoint.h"
#include "io/file.h"

namespace roundtable {
namespace {

// A shard's size, its header and 16 pieces spread over its data: hashing hundreds of gigabytes at every start would
// cost minutes; a model that was exchanged or edited shows in these all the same.
void update_with_file(Hasher& hasher, const std::string& path) {
  constexpr std::uint64_t kPiece = 64 << 10;
  constexpr std::uint64_t kPieces = 16;
  const InputFile file(path);
  hasher.update(std::to_string(file.size()));
  std::vector<char> piece(kPiece);
  for (std::uint64_t i = 0; i <= kPieces; ++i) {
    const std::uint64_t last = file.size() > kPiece ? file.size() - kPiece : 0;
    const std::uint64_t offset = last / kPieces * i;
    const std::uint64_t bytes = std::min(kPiece, file.size() - offset);
    file.read_at(offset, piece.data(), bytes);
    hasher.update(piece.data(), bytes);
  }
}

}  // namespace

std::string model_digest(const std::string& directory) {
  Hasher hasher;
  hasher.update(read_text_file(directory + "/config.json", 16 << 20));
  const Checkpoint checkpoint(directory);
  std::set<std::string> files;
  for (const std::string& name : checkpoint.names()) {
    hasher.update(name);
    files.insert(checkpoint.file_of(name));
  }
  for (const std::string& file : files) update_with_file(hasher, directory + "/" + file);
  return hasher.digest();
}

nlohmann::json fingerprint(const Config& config, const Plan& plan) {
  // Only what changes the result: paths of outputs, threads and the backend do not.
  const auto& q = config.quantization;
  const auto& t = config.tuning;
  const std::string& estimate = config.calibration.estimate;
  return {{"version", 4},
          {"model", model_digest(config.model.path)},
          {"calibration.tokens", hash_file(config.calibration.tokens)},
          {"calibration.n_samples", config.calibration.n_samples},
          {"calibration.seqlen", config.calibration.seqlen},
          {"calibration.estimate", estimate.empty() ? "" : model_digest(estimate)},
          {"quantization.bits", q.bits},
          {"quantization.group_size", q.group_size},
          {"quantization.scheme", q.scheme},
          {"quantization.enable_full_range", q.enable_full_range},
          {"quantization.scale_dtype", q.scale_dtype},
          {"quantization.data_type", q.data_type},
          {"quantization.weight_config", written(q.weight_config)},
          {"quantization.ignore_layers", q.ignore_layers},
          {"quantization.quant_lm_head", q.quant_lm_head},
          {"tuning.iters", t.iters},
          {"tuning.batch_size", t.batch_size},
          {"tuning.gradient_accumulate_steps", t.gradient_accumulate_steps},
          {"tuning.lr", t.lr},
          {"tuning.minmax_lr", t.minmax_lr},
          {"tuning.lr_scheduler", t.lr_scheduler},
          {"tuning.optimizer", t.optimizer},
          {"tuning.momentum", t.momentum},
          {"tuning.init_scale", t.init_scale},
          {"tuning.use_quant_input", t.use_quant_input},
          {"tuning.enable_minmax_tuning", t.enable_minmax_tuning},
          {"tuning.not_use_mse", t.not_use_mse},
          {"tuning.dynamic_max_gap", t.dynamic_max_gap},
          {"tuning.n_blocks", t.n_blocks},
          {"tuning.amp", t.amp},
          {"tuning.sampler", t.sampler},
          {"tuning.seed", t.seed},
          {"parallel.gradient_dtype", config.parallel.gradient_dtype},
          {"run.reproducible", config.run.reproducible},
          {"output.formats", config.output.formats},
          {"output.max_shard_size", config.output.max_shard_size},
          {"number of stages", plan.stages.size()}};
}

std::string fingerprint_difference(const nlohmann::json& old_print, const nlohmann::json& new_print) {
  std::string names;
  for (const auto& [key, value] : new_print.items()) {
    if (old_print.contains(key) && old_print[key] == value) continue;
    names += (names.empty() ? "" : ", ") + key;
  }
  return names;
}

std::string fingerprint_digest(const nlohmann::json& print) {
  Hasher hasher;
  hasher.update(print.dump());
  return hasher.digest();
}

}  // namespace roundtable
